"""Cannot be imported, as happens to a plugin that was written for another release."""

raise ImportError("cannot import name 'samplers_v2' from 'ebmzoo'")
