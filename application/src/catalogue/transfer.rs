//! The catalogue of another service, taken over.

use std::sync::Arc;

use domain::catalogue::{Catalogue, CatalogueEvent};
use domain::event::Event;
use domain::ids::TenantId;

use super::{PAGE_EVENTS, catalogue_append};
use crate::Application;
use crate::error::Error;

/// What became of the catalogue of another service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transferred {
    /// It is the catalogue here from now on.
    TakenOver,
    /// It was the catalogue here already.
    AlreadyHere,
    /// The catalogue here was changed by its own landlord, and stays as it is.
    Kept,
}

impl Application {
    /// Takes over the catalogue of another service, which is stopped, unless the one here was
    /// changed. All of it is one append: there or not. What happened keeps its time; who did it
    /// stays in the other's ledger.
    ///
    /// # Errors
    ///
    /// What one of the ledgers says; nothing was taken over then.
    pub async fn import_catalogue(&self, source: &Self) -> Result<Transferred, Error> {
        self.read_catalogue().await?;
        let (ours, theirs) = (self.catalogue.current(), source.catalogue.current());
        let (ours, theirs) = (Arc::clone(&ours), Arc::clone(&theirs));
        if ours.catalogue == theirs.catalogue {
            return Ok(Transferred::AlreadyHere);
        }
        if ours.catalogue != Catalogue::standard() {
            return Ok(Transferred::Kept);
        }
        let missing = source.effective_on(ours.catalogue.clone()).await?;
        let metadata = serde_json::to_string(&self.metadata_of("import"));
        let metadata = metadata.map_err(|error| Error::Internal(error.to_string()))?;
        let store = self.stores.open(TenantId::LANDLORD).await?;
        let append = catalogue_append(ours.version, missing, metadata);
        let appended = store.ledger.append(append).await;
        appended.map_err(|error| Error::of_append(TenantId::LANDLORD, error))?;
        self.read_catalogue().await?;
        Ok(Transferred::TakenOver)
    }

    /// Those of this catalogue's events that change the given one, one after the other.
    async fn effective_on(&self, mut given: Catalogue) -> Result<Vec<CatalogueEvent>, Error> {
        let store = self.stores.open(TenantId::LANDLORD).await?;
        let (mut effective, mut after) = (Vec::new(), 0);
        loop {
            let events = store.ledger.read(after, PAGE_EVENTS).await?;
            let Some(last) = events.last() else {
                return Ok(effective);
            };
            after = last.stored.position;
            for recorded in &events {
                let Event::Catalogue(event) = &recorded.event else {
                    continue;
                };
                let before = given.clone();
                given.evolve(event.clone());
                if given != before {
                    effective.push(event.clone());
                }
            }
        }
    }
}
