"""Maps, curves, animations and reports, drawn from named arrays; never imports torch."""
