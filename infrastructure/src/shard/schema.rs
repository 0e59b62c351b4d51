//! A tenant's schema and the role that owns it: making both, and bringing them up to date.

use std::sync::LazyLock;

use domain::ids::TenantId;
use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection};

use super::Room;
use crate::database::{Older, is_older};
#[cfg(doc)]
use crate::database::{SchemaTooNew, SchemaTooOld};
use crate::patience::{STEP_MAX, WHOLE_LEDGER_MAX, limited, limited_to};

/// Without the migrator's own lock, which is the whole database's: see [`Schema::migrate`].
static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = sqlx::migrate!("../migrations/postgres/tenant");
    migrator.set_locking(false);
    migrator
});

static LOGIN: &str = include_str!("login.sql");
static PREPARE: &str = include_str!("prepare.sql");

/// How long a migration waits for a lock: of another node that migrates, or of appends.
pub(crate) const LOCK_WAIT_MAX: &str = "30s";

/// The schema of the landlord's own ledger, in the landlord's database.
const OF_LANDLORD: &str = "landlord_ledger";
/// Makes it, if it is not there.
const OF_LOGIN: &str = "do $$ begin if to_regnamespace('{schema}') is null then \
     create schema {schema}; end if; end $$";
/// The role in which the login stays what it is.
const LOGIN_ITSELF: &str = "none";

/// The schema of a tenant's tables, and the tenant's role, to which it belongs. Made from the
/// tenant's id only, so it can stand in a statement.
///
/// The landlord's own belongs to the login, like the landlord's records: a role is known to a whole
/// cluster, in which there may be other landlords.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    name: String,
    role: String,
}

impl Schema {
    /// The schema of a tenant; its role has the same name.
    pub fn of(tenant: TenantId) -> Self {
        if tenant == TenantId::LANDLORD {
            return Self {
                name: OF_LANDLORD.to_owned(),
                role: LOGIN_ITSELF.to_owned(),
            };
        }
        // A UUID's text: hexadecimal digits and dashes.
        let name = format!("t_{}", tenant.to_string().replace('-', ""));
        Self {
            role: name.clone(),
            name,
        }
    }

    /// What is filled to become this one, under a name that no tenant has. It belongs to the same
    /// role.
    pub(crate) fn filled(&self) -> Self {
        Self {
            name: format!("{}_importing", self.name),
            role: self.role.clone(),
        }
    }

    /// Makes the schema and its role if they are not there, and brings them up to date. Two nodes
    /// may do so at once, and in two databases of one cluster, whose roles are the same: the role
    /// of a tenant that was moved has both schemas.
    ///
    /// The role that logs in needs `createrole`, and must own the database or may `create` in it
    /// with the right to grant that; it is never a superuser except for tests, because PostgreSQL
    /// refuses a superuser nothing. Before PostgreSQL 16 it must be `noinherit` too, or it could
    /// read every schema in no room:
    ///
    /// ```sql
    /// create role digital_card login noinherit createrole createdb password '…';
    /// create database digital_card owner digital_card;
    /// \c digital_card
    /// grant all on schema public to digital_card; -- the landlord's; a noinherit owner lacks it
    /// ```
    ///
    /// # Errors
    ///
    /// What PostgreSQL says; for a role that lacks something (42501), what it lacks. A server that
    /// says nothing is given up, whatever the step.
    pub async fn migrate(&self, shard: &PgConnectOptions) -> Result<(), sqlx::Error> {
        let options = shard.clone().options([("lock_timeout", LOCK_WAIT_MAX)]);
        let mut connection = limited(options.connect()).await?;
        let made = self.make(&mut connection).await;
        // What went wrong in the making says more than what goes wrong in the closing.
        let _ = limited(connection.close()).await;
        made
    }

    /// Brings the schema, which must be there, up to date if that may be done. One that is needs a
    /// single question, asked in its room.
    ///
    /// # Errors
    ///
    /// What PostgreSQL says, for which [`is_missing`] if it is not there; [`SchemaTooNew`] or
    /// [`SchemaTooOld`] in [`sqlx::Error::Configuration`].
    pub(crate) async fn bring_up_to_date(
        shard: &PgConnectOptions,
        room: &Room,
        older: Older,
    ) -> Result<(), sqlx::Error> {
        let schema = room.schema();
        let migrations = schema.table("_sqlx_migrations");
        let version = format!("select coalesce(max(version), 0) from {migrations} where success");
        let mut connection = room.connection().await?;
        let found = limited(sqlx::query_scalar(&version).fetch_one(connection.work())).await;
        let found = match connection.done(found) {
            // The landlord's is made with the rest of the landlord's database.
            Err(error) if schema.name == OF_LANDLORD && is_missing(&error) => 0,
            found => found?,
        };
        match is_older(found, &MIGRATOR, older)? {
            true => schema.migrate(shard).await,
            false => Ok(()),
        }
    }

    async fn make(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        limited_to(STEP_MAX, self.prepare(connection)).await?;
        let migrated = async { Ok::<_, sqlx::Error>(MIGRATOR.run_direct(connection).await?) };
        limited_to(WHOLE_LEDGER_MAX, migrated).await
    }

    async fn prepare(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        // Two nodes at once need a lock: what is there is looked for before it is made. It ends
        // with the connection, however that ends.
        sqlx::query("select pg_advisory_lock(hashtextextended($1, 0))")
            .bind(&self.name)
            .execute(&mut *connection)
            .await?;
        connection.execute(LOGIN).await?;
        let prepare = match self.role == LOGIN_ITSELF {
            true => OF_LOGIN.replace("{schema}", &self.name),
            false => PREPARE
                .replace("{schema}", &self.name)
                .replace("{role}", &self.role),
        };
        connection.execute(prepare.as_str()).await?;
        self.settle(connection).await
    }

    /// Enters the schema for good, so that names need not be qualified and what is made belongs to
    /// the tenant's role.
    pub(crate) async fn settle(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let settle = format!("{}; set search_path to {}", self.set_role(), self.name);
        connection.execute(settle.as_str()).await?;
        Ok(())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The role that it belongs to.
    pub(crate) fn role(&self) -> &str {
        &self.role
    }

    /// The statement that enters it.
    pub(crate) fn set_role(&self) -> String {
        format!("set role {}", self.role)
    }

    /// The qualified name of one of its tables.
    pub(crate) fn table(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }
}

/// Whether this login can keep tenants apart.
///
/// # Errors
///
/// What PostgreSQL says; for a login that cannot (42501), what it lacks.
pub(crate) async fn check_login(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    connection.execute(LOGIN).await.map(drop)
}

/// Whether there is no such table, schema, role or database.
pub(crate) fn is_missing(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|it| it.code());
    code.is_some_and(|code| ["42P01", "3F000", "22023", "3D000"].contains(&&*code))
}
