"""`distar bench`: what training costs, as ratios within one run; `iteration.py` says what each figure is."""
