//! Recipes, training loop and the spo-run command.
