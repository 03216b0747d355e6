"""What every benchmark is read with: records, the lookup of files, splits, tables. No torch here."""
