//! `exectrace dump`: every batch and event as it stands in the file, as text.
