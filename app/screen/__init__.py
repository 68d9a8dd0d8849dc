"""What a page is drawn with: figures with their exports, clicks, and work that goes on."""
