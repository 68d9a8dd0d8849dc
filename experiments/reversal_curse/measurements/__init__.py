"""What single hypotheses measure beside what all of them share."""
