"""What to fire next: targets, schedules, write algorithms."""
