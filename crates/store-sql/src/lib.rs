//! The store on SQL databases through sea-orm.
