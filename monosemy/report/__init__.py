"""A run shown: tables, figures, one page that works offline."""
