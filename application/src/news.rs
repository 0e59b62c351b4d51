//! News of the landlord's records: what some node has changed, read again into this node's memory.
//!
//! News says what may have changed, never to what: the record is read. So news that comes twice,
//! too late or of this node's own change does no harm; the last even helps, when the answer to the
//! change got lost. What cannot be read stays news until it can.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::ids::{KeyId, TenantId};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::Application;
use crate::ports::Unavailable;

/// How much news may wait; if there is more, it is [`News::Everything`].
const UNREAD_MAX: usize = 1_024;
/// How long reading records may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The first pause after records could not be read; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What may have changed in the landlord's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum News {
    /// Anything: news may have been missed.
    Everything,
    /// This tenant: recorded, or ready.
    Tenant(TenantId),
    /// This key: made, or revoked.
    Key(KeyId),
    /// Which shards there are.
    Shards,
}

/// The news that was not read yet, of each once. Cloning gives another handle to the same.
#[derive(Clone, Default)]
pub struct LandlordNews {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    unread: Mutex<HashSet<News>>,
    wake: Notify,
}

impl LandlordNews {
    /// Adds to the news.
    pub fn tell(&self, news: News) {
        let mut unread = self.unread();
        if news == News::Everything || unread.len() >= UNREAD_MAX {
            unread.clear();
            unread.insert(News::Everything);
        } else if !unread.contains(&News::Everything) {
            unread.insert(news);
        }
        drop(unread);
        self.shared.wake.notify_one();
    }

    /// Waits for news; all of it.
    async fn next(&self) -> HashSet<News> {
        loop {
            let unread = std::mem::take(&mut *self.unread());
            if !unread.is_empty() {
                return unread;
            }
            self.shared.wake.notified().await;
        }
    }

    fn unread(&self) -> MutexGuard<'_, HashSet<News>> {
        self.shared
            .unread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads what is news, as it comes, until stopped.
pub async fn follow_news(
    application: Arc<Application>,
    news: LandlordNews,
    stop: CancellationToken,
) {
    let follow = async {
        let mut pause = PAUSE_MIN;
        loop {
            let all_read = application.read_news(&news).await;
            if all_read {
                pause = PAUSE_MIN;
            } else {
                sleep(pause).await;
                pause = PAUSE_MAX.min(pause * 2);
            }
        }
    };
    stop.run_until_cancelled(follow).await;
}

impl Application {
    /// Waits for news and reads it; what could not be read is told again, and holds up no other.
    /// Whether there was no such.
    async fn read_news(&self, news: &LandlordNews) -> bool {
        let mut all_read = true;
        for item in news.next().await {
            if let Err(error) = self.read(item).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, news = ?item, "the landlord's records are read again");
                news.tell(item);
                all_read = false;
            }
        }
        all_read
    }

    async fn read(&self, news: News) -> Result<(), Unavailable> {
        match news {
            News::Tenant(id) => self.read_tenant(id).await,
            News::Key(id) => self.read_key(id).await,
            News::Shards => self.read_shards().await,
            News::Everything => {
                // What cannot be read must not keep a revoked key in force.
                let keys = self.read_keys().await;
                let shards = self.read_shards().await;
                self.read_tenants().await.and(shards).and(keys)
            }
        }
    }

    async fn read_tenant(&self, id: TenantId) -> Result<(), Unavailable> {
        let _no_change_meanwhile = self.directory.changing.lock().await;
        match in_time(self.landlord.tenant(id)).await? {
            Some(tenant) => self.directory.put(tenant),
            None => self.directory.remove(id),
        }
        Ok(())
    }

    async fn read_tenants(&self) -> Result<(), Unavailable> {
        let _no_change_meanwhile = self.directory.changing.lock().await;
        let tenants = in_time(self.landlord.tenants()).await?;
        self.directory.replace(tenants);
        Ok(())
    }

    async fn read_shards(&self) -> Result<(), Unavailable> {
        let shards = in_time(self.landlord.shards()).await?;
        self.shards.replace(shards);
        Ok(())
    }

    async fn read_key(&self, id: KeyId) -> Result<(), Unavailable> {
        let _no_change_meanwhile = self.keys.changing.lock().await;
        match in_time(self.landlord.key(id)).await? {
            Some(key) => self.keys.put(key),
            None => self.keys.remove(id),
        }
        Ok(())
    }

    async fn read_keys(&self) -> Result<(), Unavailable> {
        let _no_change_meanwhile = self.keys.changing.lock().await;
        let keys = in_time(self.landlord.keys()).await?;
        self.keys.replace(keys);
        Ok(())
    }
}

/// An answer, if it comes in time: changes wait for it.
async fn in_time<T>(
    answer: impl Future<Output = Result<T, Unavailable>>,
) -> Result<T, Unavailable> {
    let late = |error| Unavailable::because("the landlord's database", error);
    timeout(PATIENCE, answer).await.map_err(late)?
}
