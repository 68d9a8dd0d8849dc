"""Attacks on declining, each made on one organism: do they move *harmful*, or *declines*?"""
