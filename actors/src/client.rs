//! The gateway's only door: commands go to the entity that owns the answer, queries read the views.
