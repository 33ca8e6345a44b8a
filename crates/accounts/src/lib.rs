//! Users, sign-in, tokens and bots.
