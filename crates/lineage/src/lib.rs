//! The snapshot graph: lineage, listing, tree, retention and flattening plans, as pure functions.
