//! The places for connections: at most so many at a time. When all are taken and somebody waits
//! for one, the connection that has rested longest makes room, and no other.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::patience::Requests;

/// How long a connection rests before it makes room.
const REST_MIN: Duration = Duration::from_secs(1);
/// How often room is asked for while somebody waits.
const ASKING_PAUSE: Duration = Duration::from_millis(100);

/// The places.
pub struct Places {
    free: Arc<Semaphore>,
    seats: Mutex<BTreeMap<u64, Arc<Seat>>>,
}

struct Seat {
    requests: Requests,
    /// Told that somebody waits for this one.
    wanted: Notify,
}

/// A connection that may be asked to make room, until it is dropped.
pub struct Guest<'a> {
    places: &'a Places,
    number: u64,
    seat: Arc<Seat>,
}

impl Places {
    /// So many places.
    pub fn new(count: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(count)),
            seats: Mutex::default(),
        }
    }

    /// A place, as soon as there is one.
    ///
    /// # Errors
    ///
    /// There are none any more.
    pub async fn take(&self) -> io::Result<OwnedSemaphorePermit> {
        loop {
            if self.free.available_permits() == 0 {
                self.ask_for_room();
            }
            let free = Arc::clone(&self.free).acquire_owned();
            if let Ok(place) = timeout(ASKING_PAUSE, free).await {
                return place.map_err(io::Error::other);
            }
        }
    }

    /// Notes who has taken a place.
    pub fn seat(&self, requests: Requests) -> Guest<'_> {
        let seat = Arc::new(Seat {
            requests,
            wanted: Notify::new(),
        });
        let mut seats = self.seats();
        let number = seats.last_key_value().map_or(0, |(last, _)| last + 1);
        seats.insert(number, Arc::clone(&seat));
        Guest {
            places: self,
            number,
            seat,
        }
    }

    fn ask_for_room(&self) {
        let seats = self.seats();
        let resting = seats.values().filter_map(|it| Some((it.rest()?, it)));
        if let Some((_, seat)) = resting.max_by_key(|(rest, _)| *rest) {
            seat.wanted.notify_one();
        }
    }

    fn seats(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Seat>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// How long its connection has rested, if that is long enough to make room.
    fn rest(&self) -> Option<Duration> {
        self.requests.rest().filter(|rest| *rest >= REST_MIN)
    }
}

impl Guest<'_> {
    /// Waits until somebody wants this place, and the connection does not need it.
    pub async fn makes_room(&self) {
        loop {
            self.seat.wanted.notified().await;
            if self.seat.rest().is_some() {
                return;
            }
        }
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.places.seats().remove(&self.number);
    }
}
