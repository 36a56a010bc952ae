"""What every package may use: errors, distribution, seeding, files, augmentation."""
