//! Bilevel steps: how an upper and a lower objective become one update.
