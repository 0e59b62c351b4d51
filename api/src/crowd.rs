//! The bound on requests being worked on: in all, and of one tenant, so that no tenant takes every
//! place. A request whose body is still on its way takes none: a slow client holds up nobody.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::ids::TenantId;

use crate::problem::{Code, Problem};

/// The requests being worked on.
#[derive(Debug)]
pub struct Crowd {
    max: usize,
    of_a_tenant_max: usize,
    in_all: AtomicUsize,
    of_tenants: Mutex<HashMap<TenantId, usize>>,
}

/// One request's place; dropping it lets another one in.
#[derive(Debug)]
pub struct Place {
    crowd: Arc<Crowd>,
    tenant: Option<TenantId>,
}

impl Crowd {
    /// At most so many requests, and so many of them of one tenant.
    pub fn new(max: usize, of_a_tenant_max: usize) -> Self {
        Self {
            max,
            of_a_tenant_max,
            in_all: AtomicUsize::new(0),
            of_tenants: Mutex::default(),
        }
    }

    /// A place for a request of `tenant`, or of somebody who is none.
    ///
    /// # Errors
    ///
    /// `overloaded` if there is no place for anybody, `rate_limited` if there is none for this tenant.
    pub fn enter(self: &Arc<Self>, tenant: Option<TenantId>) -> Result<Place, Problem> {
        // Counted from here on, and off again if the place is dropped below.
        let before = self.in_all.fetch_add(1, Ordering::Relaxed);
        let mut place = Place {
            crowd: Arc::clone(self),
            tenant: None,
        };
        if before >= self.max {
            let detail = "more requests are being worked on than accepted";
            return Err(Problem::new(Code::Overloaded, detail));
        }
        if let Some(tenant) = tenant {
            let mut of_tenants = self.of_tenants();
            let its = of_tenants.entry(tenant).or_default();
            if *its >= self.of_a_tenant_max {
                let max = self.of_a_tenant_max;
                let detail = format!("{max} requests of this tenant are being worked on already");
                drop(of_tenants);
                return Err(Problem::new(Code::RateLimited, detail));
            }
            *its += 1;
            place.tenant = Some(tenant);
        }
        Ok(place)
    }

    /// How many requests there are.
    pub fn len(&self) -> usize {
        self.in_all.load(Ordering::Relaxed)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn of_tenants(&self) -> MutexGuard<'_, HashMap<TenantId, usize>> {
        self.of_tenants
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crowd.in_all.fetch_sub(1, Ordering::Relaxed);
        let Some(tenant) = self.tenant else { return };
        let mut of_tenants = self.crowd.of_tenants();
        if let Some(its) = of_tenants.get_mut(&tenant) {
            *its -= 1;
            if *its == 0 {
                of_tenants.remove(&tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn tenant(number: u128) -> Option<TenantId> {
        Some(TenantId::new(Uuid::from_u128(number)))
    }

    fn refusal(entered: Result<Place, Problem>) -> Code {
        entered.expect_err("a refusal").code()
    }

    #[test]
    fn no_tenant_takes_every_place() {
        let crowd = Arc::new(Crowd::new(4, 2));
        let one = [1, 1].map(|_| crowd.enter(tenant(1)).expect("a place"));
        assert_eq!(refusal(crowd.enter(tenant(1))), Code::RateLimited);
        let _other = crowd.enter(tenant(2)).expect("a place");
        let nobody = crowd.enter(None).expect("a place");
        assert_eq!(refusal(crowd.enter(tenant(2))), Code::Overloaded);
        drop(nobody);
        drop(one);
        assert_eq!(crowd.len(), 1);
        let _again = [1, 1].map(|_| crowd.enter(tenant(1)).expect("a place"));
    }

    #[test]
    fn who_has_left_is_forgotten() {
        let crowd = Arc::new(Crowd::new(4, 2));
        drop(crowd.enter(tenant(1)).expect("a place"));
        assert!(crowd.is_empty());
        assert!(crowd.of_tenants().is_empty());
    }
}
