//! How far a plan's tenants are brought to its newest version is counted once.

use domain::catalogue::{
    Catalogue, CatalogueCommand as Command, CatalogueEvent as Event, MigratedPage,
    MigrationFailure, PlanTerms,
};

use crate::catalogue_changes::{key, standard, with};
use crate::examples::{day, plan, tenant_id};
use crate::given::{after, given};

fn started() -> Event {
    Event::PlanMigrationStarted {
        key: key("free"),
        version: 1,
        by: "key".to_owned(),
        at: day(1),
    }
}

fn start() -> Command {
    Command::StartMigration {
        key: key("free"),
        by: "key".to_owned(),
        at: day(1),
    }
}

fn page(after: u16) -> MigratedPage {
    MigratedPage {
        after: tenant_id(after),
        migrated: 2,
        unchanged: 1,
        failed: vec![MigrationFailure {
            tenant: tenant_id(after),
            detail: "down".to_owned(),
        }],
    }
}

fn progress(after: u16) -> Command {
    Command::ProgressMigration {
        key: key("free"),
        version: 1,
        page: page(after),
        at: day(2),
    }
}

fn progressed(to: u16) -> Event {
    let MigratedPage {
        after,
        migrated,
        unchanged,
        failed,
    } = page(to);
    Event::PlanMigrationProgressed {
        key: key("free"),
        after,
        migrated,
        unchanged,
        failed,
        at: day(2),
    }
}

fn finish() -> Command {
    Command::FinishMigration {
        key: key("free"),
        version: 1,
        at: day(3),
    }
}

#[test]
fn a_migration_counts_each_page_of_tenants_once_whoever_reports_it() {
    given::<Catalogue>(standard())
        .when(start())
        .then([started()]);
    given::<Catalogue>(with([started()]))
        .when(start())
        .then_nothing();
    given::<Catalogue>(with([started()]))
        .when(progress(5))
        .then([progressed(5)]);
    given::<Catalogue>(with([started(), progressed(5)]))
        .when(progress(5))
        .then_nothing();
    given::<Catalogue>(with([started(), progressed(5)]))
        .when(progress(3))
        .then_nothing();
    let catalogue: Catalogue = after(with([started(), progressed(5), progressed(9)]));
    let migration = &catalogue.migrations[&key("free")];
    let counts = (migration.migrated, migration.unchanged, migration.failed);
    assert_eq!(counts, (4, 2, 2));
    assert_eq!(migration.after, Some(tenant_id(9)));
}

#[test]
fn a_migration_ends_once_and_can_be_begun_again() {
    let finished = Event::PlanMigrationFinished {
        key: key("free"),
        at: day(3),
    };
    given::<Catalogue>(with([started()]))
        .when(finish())
        .then([finished.clone()]);
    let over = with([started(), finished]);
    given::<Catalogue>(over.clone())
        .when(finish())
        .then_nothing();
    given::<Catalogue>(over.clone())
        .when(progress(1))
        .then_nothing();
    given::<Catalogue>(over).when(start()).then([started()]);
}

#[test]
fn a_migration_goes_no_further_when_the_plan_gets_its_next_version() {
    let revised = Event::PlanRevised {
        plan: PlanTerms {
            version: 2,
            ..plan("free")
        },
        at: day(2),
    };
    let other = Event::PlanRevised {
        plan: PlanTerms {
            version: 2,
            ..plan("pro")
        },
        at: day(2),
    };
    let meanwhile = with([started(), other]);
    given::<Catalogue>(meanwhile)
        .when(progress(5))
        .then([progressed(5)]);
    let superseded = with([started(), revised.clone()]);
    given::<Catalogue>(superseded.clone())
        .when(progress(5))
        .then_nothing();
    given::<Catalogue>(superseded.clone())
        .when(finish())
        .then_nothing();
    let catalogue: Catalogue = after(superseded);
    let migration = &catalogue.migrations[&key("free")];
    assert!(migration.superseded);
    assert_eq!(migration.finished_at, Some(day(2)));
    // One that is over by then has reached its end.
    let finished = Event::PlanMigrationFinished {
        key: key("free"),
        at: day(1),
    };
    let catalogue: Catalogue = after(with([started(), finished, revised]));
    assert!(!catalogue.migrations[&key("free")].superseded);
}

#[test]
fn a_migration_to_an_outdated_version_goes_no_further() {
    let outdated = [
        started(),
        Event::PlanMigrationStarted {
            key: key("free"),
            version: 2,
            by: "key".to_owned(),
            at: day(2),
        },
    ];
    given::<Catalogue>(with(outdated.clone()))
        .when(progress(1))
        .then_nothing();
    given::<Catalogue>(with(outdated))
        .when(finish())
        .then_nothing();
}
