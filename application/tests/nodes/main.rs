//! What a node does by itself. Its records are in memory here, because no real database answers
//! late or fails on command. Time is tokio's paused clock, so pauses between tries take none.

mod news;
mod nights;
mod node;
mod timer;
