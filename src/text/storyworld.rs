//! Short synthetic stories with gold labels.
