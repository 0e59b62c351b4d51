//! API keys: who may come in. The store has only their hashes; the secrets are shown once.
//!
//! A secret is not drawn but derived: HMAC-SHA-256, under the asker's own secret, of a nonce that
//! is drawn for it and kept with the idempotency record only. So a repeated request (same
//! `Idempotency-Key`) can show the same secret again although nobody stored it. Neither the
//! database nor the asker's secret is enough to derive it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use chrono::{DateTime, Utc};
use domain::catalogue::feature;
use domain::ids::{KeyId, TenantId};
use domain::text::DisplayName;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Application;
use crate::commands::Done;
use crate::error::{Error, Refusal};
use crate::ports::Recorded;
use crate::scope::{Command, Role, Scope};
use crate::tenants::landlord_record;

const TENANT_KEYS: &[Role] = &[Role::TenantAdmin];
const LANDLORD_KEYS: &[Role] = &[Role::Landlord];
/// How many keys of a tenant are in force at a time: every node has all of them in memory.
const TENANT_KEYS_MAX: usize = 100;
/// How many that belong to no tenant.
const OTHER_KEYS_MAX: usize = 1_000;

/// What an API key opens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Its id: safe to log and to show.
    pub id: KeyId,
    /// SHA-256 of its secret.
    pub hash: [u8; 32],
    /// What it may be used for.
    pub role: Role,
    /// The tenant it belongs to, for the roles that have one.
    pub tenant: Option<TenantId>,
    /// What people call it.
    pub name: DisplayName,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// A key's secret: what a client sends as `Authorization: Bearer`. Never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A secret from outside: what a client sent, or what the configuration sets.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// A secret of 32 random bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(format!("dck_{}", hex::encode(bytes)))
    }

    /// SHA-256 of the secret. The secrets have 256 bits of chance, so a slow hash adds nothing.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }

    /// The secret itself, to show to who may see it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What new secrets are derived from: the asker's own.
#[derive(Clone, Debug)]
pub struct Seed(Secret);

impl Seed {
    /// The seed of whoever asks with this secret.
    pub const fn new(secret: Secret) -> Self {
        Self(secret)
    }

    /// The secret that belongs to a nonce.
    pub fn derive(&self, nonce: &Nonce) -> Secret {
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(self.0.0.as_bytes())
            .unwrap_or_else(|_| unreachable!("HMAC takes a key of any length"));
        mac.update(b"digital-card api key");
        mac.update(&nonce.0);
        Secret::from_bytes(mac.finalize().into_bytes().into())
    }
}

/// 32 random bytes, drawn for one secret.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Nonce(pub [u8; 32]);

/// A new key and its secret.
#[derive(Clone, Debug)]
pub struct IssuedKey {
    /// The key.
    pub key: ApiKey,
    /// Its secret: shown here and never again, except to a repetition of the same request.
    pub secret: Secret,
}

/// A key to make.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// What it may be used for.
    pub role: Role,
    /// What people call it.
    pub name: DisplayName,
    /// The tenant it belongs to, for the roles that have one.
    pub tenant: Option<TenantId>,
}

/// Every key in force, in memory, so that authenticating needs no look-up.
#[derive(Default)]
pub struct KeyRing {
    by_hash: RwLock<ByHash>,
    /// Keys are made, revoked and read again one at a time, from the record to the memory: two
    /// requests on this node cannot both be a tenant's second key, whoever hears that a key is
    /// revoked already can rely on it, and what was read never takes the place of what is newer.
    pub(crate) changing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct ByHash {
    /// Those in the landlord's records.
    recorded: HashMap<[u8; 32], ApiKey>,
    /// Those in this node's configuration, which no record makes or revokes.
    configured: HashMap<[u8; 32], ApiKey>,
}

impl KeyRing {
    /// A ring of these keys.
    pub fn new(keys: Vec<ApiKey>) -> Self {
        let ring = Self::default();
        ring.replace(keys);
        ring
    }

    /// The key with this secret, if it is in force.
    pub fn authenticate(&self, secret: &Secret) -> Option<ApiKey> {
        let (keys, hash) = (self.read(), secret.hash());
        let configured = keys.configured.get(&hash);
        configured.or_else(|| keys.recorded.get(&hash)).cloned()
    }

    /// Lets a recorded key in, from now on.
    pub fn put(&self, key: ApiKey) {
        self.write().recorded.insert(key.hash, key);
    }

    /// Lets a key of this node's configuration in, whatever the landlord's records say.
    pub fn put_configured(&self, key: ApiKey) {
        self.write().configured.insert(key.hash, key);
    }

    /// Whether a key with this secret is in force.
    pub(crate) fn knows(&self, key: &ApiKey) -> bool {
        let keys = self.read();
        keys.configured.contains_key(&key.hash) || keys.recorded.contains_key(&key.hash)
    }

    /// A recorded key opens nothing from now on.
    pub(crate) fn remove(&self, id: KeyId) {
        self.write().recorded.retain(|_, key| key.id != id);
    }

    /// These are all keys on record.
    pub(crate) fn replace(&self, keys: Vec<ApiKey>) {
        let recorded = keys.into_iter().map(|key| (key.hash, key)).collect();
        self.write().recorded = recorded;
    }

    /// The keys that match, oldest first.
    pub(crate) fn list(&self, matches: impl Fn(&ApiKey) -> bool) -> Vec<ApiKey> {
        let ring = self.read();
        let all = ring.recorded.values().chain(ring.configured.values());
        let mut keys: Vec<_> = all.filter(|key| matches(key)).cloned().collect();
        keys.sort_by_key(|key| key.id);
        keys
    }

    /// How many recorded keys a tenant has, or nobody's tenant.
    fn count(&self, tenant: Option<TenantId>) -> usize {
        let ring = self.read();
        let its = ring.recorded.values().filter(|key| key.tenant == tenant);
        its.count()
    }

    fn read(&self) -> RwLockReadGuard<'_, ByHash> {
        self.by_hash.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, ByHash> {
        self.by_hash.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Application {
    /// Makes another key for the asker's own tenant. A tenant's second key needs the feature
    /// `api_access`.
    pub async fn create_tenant_key(
        &self,
        command: &Command,
        name: DisplayName,
        role: Role,
        seed: &Seed,
    ) -> Result<Done<IssuedKey>, Error> {
        let store = self.tenant_store(&command.scope, TENANT_KEYS).await?;
        if !role.of_tenant() {
            return Err(role_refused(
                "a tenant's keys are tenant_admin or tenant_viewer",
            ));
        }
        let _one_at_a_time = self.keys.changing.lock().await;
        if let Some(done) = self.key_made_before(command, seed).await? {
            return Ok(done);
        }
        if self.keys.count(Some(store.tenant)) > 0 {
            self.require_feature(&store, feature::API_ACCESS, self.clock.now())?;
        }
        let tenant = Some(store.tenant);
        self.make_key(command, NewKey { role, name, tenant }, seed)
            .await
    }

    /// Makes a key of any role.
    pub async fn create_key(
        &self,
        command: &Command,
        new: NewKey,
        seed: &Seed,
    ) -> Result<Done<IssuedKey>, Error> {
        command.scope.require(LANDLORD_KEYS)?;
        match (new.role.of_tenant(), new.tenant) {
            (true, Some(tenant)) if self.directory.get(tenant).is_none() => {
                return Err(Refusal::Invalid {
                    field: "tenant",
                    code: "unknown_tenant",
                    detail: format!("there is no tenant {tenant}"),
                }
                .into());
            }
            (true, None) => return Err(role_refused("this role needs a tenant")),
            (false, Some(_)) => return Err(role_refused("this role belongs to no tenant")),
            (true, Some(_)) | (false, None) => {}
        }
        let _one_at_a_time = self.keys.changing.lock().await;
        if let Some(done) = self.key_made_before(command, seed).await? {
            return Ok(done);
        }
        self.make_key(command, new, seed).await
    }

    /// The keys of the asker's own tenant.
    pub async fn tenant_keys(&self, scope: &Scope) -> Result<Vec<ApiKey>, Error> {
        scope.require(TENANT_KEYS)?;
        let tenant = scope.own_tenant()?;
        Ok(self.keys.list(|key| key.tenant == Some(tenant)))
    }

    /// Every key.
    pub async fn all_keys(&self, scope: &Scope) -> Result<Vec<ApiKey>, Error> {
        scope.require(LANDLORD_KEYS)?;
        Ok(self.keys.list(|_| true))
    }

    /// Revokes a key of the asker's own tenant; it opens nothing from this moment on.
    pub async fn revoke_tenant_key(&self, scope: &Scope, id: KeyId) -> Result<(), Error> {
        let own = self.tenant_keys(scope).await?;
        match own.iter().any(|key| key.id == id) {
            true => self.revoke(id).await,
            false => Err(Error::NotFound("key")),
        }
    }

    /// Revokes any key; it opens nothing from this moment on.
    pub async fn revoke_key(&self, scope: &Scope, id: KeyId) -> Result<(), Error> {
        scope.require(LANDLORD_KEYS)?;
        self.revoke(id).await
    }

    async fn revoke(&self, id: KeyId) -> Result<(), Error> {
        let _one_at_a_time = self.keys.changing.lock().await;
        let revoked = self.landlord.revoke_key(id, self.clock.now()).await?;
        // It is not in force, whoever revoked it: also if another node did so just now.
        self.keys.remove(id);
        match revoked {
            true => Ok(()),
            false => Err(Error::NotFound("key")),
        }
    }

    async fn make_key(
        &self,
        command: &Command,
        new: NewKey,
        seed: &Seed,
    ) -> Result<Done<IssuedKey>, Error> {
        let limit = match new.tenant {
            Some(_) => TENANT_KEYS_MAX,
            None => OTHER_KEYS_MAX,
        };
        if self.keys.count(new.tenant) >= limit {
            return Err(Refusal::TooManyKeys { limit }.into());
        }
        let nonce = Nonce(self.random.secret());
        let secret = seed.derive(&nonce);
        let key = ApiKey {
            id: KeyId::new(self.random.id()),
            hash: secret.hash(),
            role: new.role,
            tenant: new.tenant,
            name: new.name,
            created_at: self.clock.now(),
        };
        let outcome = KeyOutcome {
            key: key.clone(),
            nonce,
        };
        let record = landlord_record(command, &outcome)?;
        match self.landlord.add_key(&key, record.as_ref()).await? {
            Recorded::New => {
                self.keys.put(key.clone());
                Ok(made(key, secret, false))
            }
            Recorded::Replayed(outcome) => replayed(&outcome.outcome, seed),
        }
    }

    /// The answer to the same request, if it was given before. Asked before the rules, which may
    /// refuse today what was done then.
    async fn key_made_before(
        &self,
        command: &Command,
        seed: &Seed,
    ) -> Result<Option<Done<IssuedKey>>, Error> {
        let Some(idempotency) = &command.idempotency else {
            return Ok(None);
        };
        let key = format!("{}:{}", command.scope.key, idempotency.key);
        match self.landlord.outcome(&key).await? {
            None => Ok(None),
            Some(outcome) if outcome.fingerprint != idempotency.fingerprint => {
                Err(Error::KeyReused)
            }
            Some(outcome) => replayed(&outcome.outcome, seed).map(Some),
        }
    }
}

/// What is remembered of a key's making, to answer the same request the same way.
#[derive(Serialize, Deserialize)]
struct KeyOutcome {
    key: ApiKey,
    nonce: Nonce,
}

fn made(key: ApiKey, secret: Secret, replayed: bool) -> Done<IssuedKey> {
    Done {
        value: IssuedKey { key, secret },
        version: 1,
        position: 0,
        replayed,
    }
}

fn replayed(outcome: &str, seed: &Seed) -> Result<Done<IssuedKey>, Error> {
    let KeyOutcome { key, nonce } = serde_json::from_str(outcome)
        .map_err(|error| Error::Internal(format!("a recorded outcome: {error}")))?;
    Ok(made(key, seed.derive(&nonce), true))
}

fn role_refused(detail: &str) -> Error {
    Refusal::Invalid {
        field: "role",
        code: "role_not_allowed",
        detail: detail.to_owned(),
    }
    .into()
}
