"""One module a family of estimators; each registers its lowerings (see `compile.lowering`)."""
