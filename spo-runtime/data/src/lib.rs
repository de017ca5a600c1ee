//! Preference data: formats, chat templates, tokenization.
