//! Picks against truth. Nothing here yet; the names in lib.rs and in the map are its seat.
