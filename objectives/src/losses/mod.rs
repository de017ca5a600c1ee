//! Preference objectives: losses over log-probabilities, in nats.
