//! API keys: made and revoked here, and looked up by who checks credentials.

use std::{sync::Arc, time::Duration};

use hiveward_access::{
    principal::Principal,
    resource::ResourceKind,
    role::{Grant, Role},
    verb::Verb,
};
use hiveward_catalogue::part::{
    PartChange,
    api_key::{ApiKey, ApiKeyChange},
};
use hiveward_kernel::{
    id::{ApiKeyId, ProjectId},
    page::Page,
};
use hiveward_runtime::{
    error::{Code, Refused},
    op::Op,
};

use super::{ControlPlane, Done, access::Sought, check, query::page_key};

/// The longest life of a key that has an end.
pub const API_KEY_TTL_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
/// What each key begins with, so that it is known for one where it lies about.
pub const API_KEY_BEGINS: &str = "hwk_";
/// The characters of a key that are shown with it: its beginning, by which its owner tells it from others.
const PREFIX_CHARS: usize = 12;
/// The random bytes of a key.
const SECRET_BYTES: usize = 32;

/// A new key, with its secret if it is made now: a repeated operation cannot show it again.
#[derive(Clone, Debug)]
pub struct NewApiKey {
    pub key: ApiKey,
    pub secret: Option<String>,
}

impl ControlPlane {
    /// Makes a key with which a program has `role`, in a project or the whole cluster. Its text is returned this once.
    pub async fn create_api_key(
        &self,
        op: Op,
        name: String,
        role: Role,
        project: Option<ProjectId>,
        ttl: Option<Duration>,
    ) -> Result<Done<NewApiKey>, Refused> {
        let sought = project.map_or(Sought::Cluster(ResourceKind::ApiKey), |project| Sought::New(ResourceKind::ApiKey, project));
        let op = self.may(op, Verb::CreateApiKey, sought).await?;
        check::name("name", &name)?;
        if ttl.is_some_and(|ttl| ttl.is_zero() || ttl > API_KEY_TTL_MAX) {
            let days = API_KEY_TTL_MAX.as_secs() / (24 * 3600);
            return Err(Refused::invalid("expiresInMs", format!("more than nothing, and at most {days} days")));
        }
        let asked = ("create-api-key", name.clone(), role, project, ttl);
        let secret = new_secret()?;
        let key = ApiKey {
            id: ApiKeyId::new(),
            name,
            prefix: secret.chars().take(PREFIX_CHARS).collect(),
            digest: digest(&secret),
            grant: Grant { role, project },
            expires_at: ttl.map(|ttl| self.house.clock.now().plus(ttl)),
            created_by: op.principal.to_string(),
            created_at: self.house.clock.now(),
        };
        let id = key.id;
        let done = self.change_part(&op, &asked, PartChange::ApiKey(ApiKeyChange::Create { key })).await?;
        let made = ApiKeyId::try_from(&done.value).map_err(|error| Refused::new(Code::Internal, error.to_string()))?;
        let found = self.house.directory.read(|known| known.parts.api_keys.all.get(&made).cloned());
        let key = found.ok_or_else(|| Refused::not_found(made))?;
        Ok(Done { value: NewApiKey { key, secret: (made == id).then_some(secret) }, cursor: done.cursor })
    }

    /// Revokes a key. Whoever asks with it is refused on every node as soon as it has heard of it, also over what is open.
    pub async fn revoke_api_key(&self, op: Op, id: ApiKeyId) -> Result<Done<Option<ApiKey>>, Refused> {
        let found = self.house.directory.read(|known| known.parts.api_keys.all.get(&id).cloned());
        let sought = Sought::ApiKey(id, found.as_ref().and_then(|key| key.grant.project));
        let op = self.may(op, Verb::RevokeApiKey, sought).await?;
        let change = PartChange::ApiKey(ApiKeyChange::Revoke { id });
        let done = self.change_part(&op, &("revoke-api-key", id), change).await?;
        Ok(Done { value: found, cursor: done.cursor })
    }

    /// Lists the keys that he may know of, in the order of their making.
    pub fn api_keys(&self, after: Option<&str>, first: usize) -> Result<Page<ApiKey>, Refused> {
        let after: Option<ApiKeyId> = after.map(page_key).transpose()?;
        let all: Vec<_> = self.house.directory.read(|known| {
            let keys = known.parts.api_keys.all.values().filter(|key| after.is_none_or(|after| key.id > after));
            keys.cloned().collect()
        });
        let may = |key: &ApiKey| {
            self.is_node()
                || self
                    .ruling(hiveward_access::policy::Action::Do(Verb::ApiKeys), Sought::ApiKey(key.id, key.grant.project))
                    .allowed
        };
        let mut page = Page::default();
        for key in all.into_iter().filter(may) {
            if page.items.len() == first {
                page.has_next = true;
                break;
            }
            page.last_seen = Some(key.id.to_string());
            page.items.push((key.id.to_string(), key));
        }
        Ok(page)
    }

    /// Returns the key with this name, if he may know of it.
    pub fn api_key_named(&self, name: &str) -> Result<Option<ApiKeyId>, Refused> {
        Ok(self.api_keys(None, usize::MAX)?.items.into_iter().map(|(_, key)| key).find(|key| key.name == name).map(|key| key.id))
    }

    /// Returns the program that asks with this key; `None` if the key is worth nothing (any more).
    pub fn principal_of_key(&self, text: &str) -> Option<Principal> {
        let (digest, now) = (digest(text), self.house.clock.now());
        self.house.directory.read(|known| {
            let key = known.parts.api_keys.valid(&digest, now)?;
            let holder = Principal::service(format!("key:{}", key.name), Arc::from([key.grant]));
            Some(Principal { credential: Some(key.id.key()), until: key.expires_at, ..holder })
        })
    }

    /// Returns a number that grows whenever a credential was made or revoked, as far as this node knows.
    pub fn credential_changes(&self) -> u64 {
        self.house.directory.read(|known| known.parts.api_keys.changes)
    }

    /// Tells whether what somebody asks with is still worth something.
    pub fn is_valid(&self, who: &Principal) -> bool {
        if who.until.is_some_and(|until| self.house.clock.now() >= until) {
            return false;
        }
        let Some(credential) = &who.credential else { return true };
        let Ok(id) = ApiKeyId::try_from(credential) else { return true };
        self.house.directory.read(|known| known.parts.api_keys.all.contains_key(&id))
    }
}

fn digest(text: &str) -> [u8; 32] {
    *blake3::hash(text.as_bytes()).as_bytes()
}

/// Makes the text of a new key. Errors: the system gives no random bytes.
fn new_secret() -> Result<String, Refused> {
    let mut bytes = [0_u8; SECRET_BYTES];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| std::io::Read::read_exact(&mut source, &mut bytes))
        .map_err(|error| Refused::new(Code::Internal, format!("the system gives no random bytes: {error}")))?;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{API_KEY_BEGINS}{digits}"))
}
