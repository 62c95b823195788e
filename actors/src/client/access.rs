//! Who asks, and whether he may: each function of the door that changes or shows something asks here first.
//!
//! A control plane acts for one principal. That of a node itself may do everything; [`ControlPlane::of`] makes one for a client.
//! What a client may not see is answered as if it were not there, and as slowly.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use hiveward_access::{
    policy::{Action, BadPolicy, Judge, PolicySource, Ruling},
    principal::{Principal, PrincipalKind},
    resource::{Resource, ResourceKind},
    role::Roles,
    verb::Verb,
};
use hiveward_agents::record::AgentRecord;
use hiveward_catalogue::{budget::Scope, directory::Known};
use hiveward_kernel::{
    entity::Entity,
    id::{AgentId, ApiKeyId, HostId, ImageId, NetworkId, ProjectId, SwarmId, VmId},
    page::Page,
};
use hiveward_runtime::{
    error::{Code, Refused},
    id::Key,
    op::{NodeId, Op},
};
use hiveward_work::task::record::TaskRecord;
use parking_lot::Mutex;

use super::{ControlPlane, EventRecord};

/// The one for whom a control plane asks.
pub(super) struct Asking {
    who: Arc<Principal>,
    /// The project in which names are looked up and new things are made, unless another is named.
    project: ProjectId,
}

impl Asking {
    /// Returns the node itself.
    pub(super) fn node() -> Arc<Self> {
        Arc::new(Self { who: Arc::new(Principal::node()), project: ProjectId::DEFAULT })
    }
}

/// The judge of a node, who reads policies anew when the directory has others.
pub(super) struct Court {
    judge: Judge,
    /// The policies of this node's own configuration.
    own: Vec<PolicySource>,
    /// The changes of the policies that the judge has read.
    read: AtomicU64,
    reading: Mutex<()>,
}

impl Court {
    /// Makes a court with the policies of this node's configuration. Errors: one of them does not fit.
    pub(super) fn new(own: Vec<PolicySource>) -> Result<Arc<Self>, BadPolicy> {
        let judge = Judge::new(&own)?;
        Ok(Arc::new(Self { judge, own, read: AtomicU64::new(0), reading: Mutex::new(()) }))
    }

    /// Tells whether these policies would fit beside those of this node's configuration, and changes nothing.
    pub(super) fn check(&self, policies: &[PolicySource]) -> Result<(), BadPolicy> {
        let all: Vec<_> = self.own.iter().chain(policies).cloned().collect();
        self.judge.check(&all)
    }

    /// Returns the judge, who goes by these policies.
    fn judge(&self, changes: u64, policies: impl FnOnce() -> Vec<PolicySource>) -> &Judge {
        if self.read.load(Ordering::Acquire) != changes {
            let _reading = self.reading.lock();
            if self.read.load(Ordering::Acquire) != changes {
                let sources: Vec<_> = self.own.iter().cloned().chain(policies()).collect();
                if let Err(bad) = self.judge.replace(&sources) {
                    tracing::error!(%bad, "the policies cannot be read by this version: only administrators may do anything");
                }
                self.read.store(changes, Ordering::Release);
            }
        }
        &self.judge
    }
}

/// The thing that a request is about.
#[derive(Clone, Copy)]
pub(crate) enum Sought<'a> {
    Task(&'a TaskRecord),
    Agent(AgentId),
    Swarm(SwarmId),
    Vm(VmId),
    Network(NetworkId),
    Image(ImageId),
    Budget(&'a Scope),
    Project(ProjectId),
    ApiKey(ApiKeyId, Option<ProjectId>),
    Host(HostId),
    Node(NodeId),
    /// Something that is about to be made in a project.
    New(ResourceKind, ProjectId),
    Cluster(ResourceKind),
}

macro_rules! sought {
    ($($Id:ty => $ResourceKind:ident),+) => {$(
        impl From<$Id> for Sought<'_> {
            fn from(id: $Id) -> Self { Self::$ResourceKind(id) }
        }
    )+};
}

sought!(AgentId => Agent, SwarmId => Swarm, VmId => Vm, NetworkId => Network, ImageId => Image, HostId => Host, NodeId => Node,
    ProjectId => Project);

impl<'a> From<&'a TaskRecord> for Sought<'a> {
    fn from(record: &'a TaskRecord) -> Self {
        Self::Task(record)
    }
}

impl Sought<'_> {
    /// Calls `then` with the thing as policies see it.
    fn with<R>(&self, known: &Known, then: impl FnOnce(&Resource<'_>) -> R) -> R {
        let of = |entity| known.project_of(entity);
        let fleet = &known.fleet;
        match self {
            Self::Task(record) => then(&Resource {
                kind: ResourceKind::Task,
                id: &record.id(),
                project: of(Entity::Swarm(record.spec.swarm)),
                owner: Some(&record.principal),
            }),
            Self::Agent(id) => then(&Resource { kind: ResourceKind::Agent, id, project: of(Entity::Agent(*id)), owner: None }),
            Self::Swarm(id) => then(&Resource { kind: ResourceKind::Swarm, id, project: of(Entity::Swarm(*id)), owner: None }),
            Self::Vm(id) => then(&Resource { kind: ResourceKind::Vm, id, project: of(Entity::Vm(*id)), owner: None }),
            Self::Network(id) => then(&Resource {
                kind: ResourceKind::Network,
                id,
                project: fleet.networks.all.get(id).map(|entry| entry.spec.project),
                owner: None,
            }),
            Self::Image(id) => then(&Resource {
                kind: ResourceKind::Image,
                id,
                project: fleet.images.get(id).map(|entry| entry.spec.project),
                owner: None,
            }),
            Self::Budget(scope) => {
                let project = match scope {
                    Scope::Agent(agent) => of(Entity::Agent(*agent)),
                    Scope::Swarm(swarm) => of(Entity::Swarm(*swarm)),
                    Scope::Attempt(lease) => of(Entity::Agent(lease.agent)),
                    Scope::Label(_) => None,
                };
                then(&Resource { kind: ResourceKind::Budget, id: scope, project, owner: None })
            }
            Self::Project(id) => then(&Resource::within(ResourceKind::Project, id, *id)),
            Self::ApiKey(id, project) => then(&Resource { kind: ResourceKind::ApiKey, id, project: *project, owner: None }),
            Self::Host(id) => then(&Resource::of_the_cluster(ResourceKind::Host, id)),
            Self::Node(id) => then(&Resource::of_the_cluster(ResourceKind::Node, id)),
            Self::New(kind, project) => then(&Resource::new(*kind, *project)),
            Self::Cluster(kind) => then(&Resource { kind: *kind, ..Resource::CLUSTER }),
        }
    }

    /// Returns the refusal of who may not know of it: that of a thing that is not there.
    fn unknown(&self, known: &Known) -> Refused {
        self.with(known, |on| match on.id.to_string() {
            id if id.is_empty() => match on.project {
                Some(project) => Refused::not_found(project),
                None => Refused::new(Code::NotFound, "there is no such thing"),
            },
            id => Refused::not_found(id),
        })
    }
}

impl ControlPlane {
    /// Returns the same door as it is for one who asks: it does and shows what he may do and see. Names are looked up in
    /// `project`, and what is new is made there.
    #[must_use]
    pub fn of(&self, who: Arc<Principal>, project: ProjectId) -> Self {
        Self { asking: Arc::new(Asking { who, project }), ..self.clone() }
    }

    /// Returns the one for whom it asks.
    pub fn who(&self) -> &Principal {
        &self.asking.who
    }

    /// Returns the project in which names are looked up.
    pub fn project(&self) -> ProjectId {
        self.asking.project
    }

    /// Returns the project that a request of `who` is about: the one that is named, else the only one that he has a role in,
    /// else `default`. Errors: `NotFound` if he cannot see that one.
    pub fn project_for(&self, who: &Principal, named: Option<&str>) -> Result<ProjectId, Refused> {
        let Some(named) = named else { return Ok(self.only_project_of(who).unwrap_or(ProjectId::DEFAULT)) };
        let found = self.house.directory.read(|known| {
            let id = named.parse().ok().filter(|id| known.parts.projects.has(*id));
            id.or_else(|| known.parts.projects.named(named))
        });
        let seen = found.filter(|project| self.ruling_for(who, Action::See, &Sought::Project(*project)).allowed);
        seen.ok_or_else(|| Refused { field: Some("project".into()), ..Refused::not_found(format!("project {named:?}")) })
    }

    fn only_project_of(&self, who: &Principal) -> Option<ProjectId> {
        if who.kind == PrincipalKind::Node || who.grants.iter().any(|grant| grant.project.is_none()) {
            return None;
        }
        let mut projects = self.house.directory.read(|known| {
            let projects = &known.parts.projects;
            if !projects.grants(&who.name, &who.groups, None).is_empty() {
                return Vec::new();
            }
            let member = |id: &ProjectId| !projects.grants(&who.name, &who.groups, Some(*id)).is_empty();
            projects.ids().filter(member).chain(who.grants.iter().filter_map(|grant| grant.project)).collect()
        });
        projects.sort_unstable();
        projects.dedup();
        if let [only] = projects[..] { Some(only) } else { None }
    }

    fn ruling_for(&self, who: &Principal, action: Action, sought: &Sought<'_>) -> Arc<Ruling> {
        self.house.directory.read(|known| {
            sought.with(known, |on| {
                let judge = self.court.judge(known.parts.policies.changes, || known.parts.policies.sources());
                let roles = if who.kind == PrincipalKind::Node { Roles::default() } else { roles(known, who, on.project) };
                judge.ruling(who, roles, action, on)
            })
        })
    }

    /// Tells whether he may do something, and which policies say so.
    pub(super) fn ruling<'a>(&self, action: Action, sought: impl Into<Sought<'a>>) -> Arc<Ruling> {
        self.ruling_for(&self.asking.who, action, &sought.into())
    }

    /// Returns what is about to be made in the project of a swarm.
    pub(super) fn new_in(&self, kind: ResourceKind, swarm: SwarmId) -> Sought<'static> {
        Sought::New(kind, self.house.directory.project_of(Entity::Swarm(swarm)).unwrap_or(ProjectId::DEFAULT))
    }

    /// Tells whether it asks for the node itself, which sees everything.
    pub(super) fn is_node(&self) -> bool {
        self.asking.who.kind == PrincipalKind::Node
    }

    /// Tells whether he sees a thing.
    pub(super) fn sees<'a>(&self, sought: impl Into<Sought<'a>>) -> bool {
        self.is_node() || self.ruling(Action::See, sought).allowed
    }

    /// Returns the request as one that a policy allows. Errors: `NotFound` for what he cannot see, and `Forbidden` for what he
    /// may not do; nothing was done.
    pub(super) async fn may<'a>(&self, op: Op, verb: Verb, sought: impl Into<Sought<'a>>) -> Result<Op, Refused> {
        let sought = sought.into();
        let mut checked = self.check(verb, &sought);
        if checked.as_ref().is_err_and(|refused| refused.code == Code::NotFound) {
            // It may be quite new; and who may not see it waits as long as for what is not there.
            self.settled(&op).await?;
            checked = self.check(verb, &sought);
        }
        checked.map(|()| Op { admitted: true, ..op })
    }

    /// Refuses what he may not do, by what this node knows now.
    fn check(&self, verb: Verb, sought: &Sought<'_>) -> Result<(), Refused> {
        let (who, action) = (&self.asking.who, Action::Do(verb));
        let ruling = self.ruling_for(who, action, sought);
        if ruling.allowed {
            return Ok(());
        }
        metrics::counter!("hiveward_refused_total", "verb" => verb.name()).increment(1);
        self.house.directory.read(|known| {
            let hidden = !matches!(sought, Sought::Cluster(_)) && sought.with(known, |on| on.kind.in_projects());
            if hidden && !self.sees_within(known, sought) {
                return Err(sought.unknown(known));
            }
            sought.with(known, |on| ruling.refuse(who, action, on))
        })
    }

    /// Tells whether he sees a thing, for who looks in the directory already.
    pub(super) fn sees_in(&self, known: &Known, sought: Sought<'_>) -> bool {
        self.is_node() || self.sees_within(known, &sought)
    }

    /// Tells whether he sees a thing, or the project in which it is about to be made.
    fn sees_within(&self, known: &Known, sought: &Sought<'_>) -> bool {
        let who = &self.asking.who;
        let (own, project) = sought.with(known, |on| (on.id.to_string(), on.project));
        let judge = self.court.judge(known.parts.policies.changes, || known.parts.policies.sources());
        let see = |sought: &Sought<'_>| {
            sought.with(known, |on| judge.ruling(who, roles(known, who, on.project), Action::See, on).allowed)
        };
        match project {
            Some(project) if own.is_empty() => see(&Sought::Project(project)),
            _ => see(sought),
        }
    }

    /// Refuses a question about the cluster itself to who may not ask it. Verbs about things of projects are decided where the
    /// thing is known, so nothing is refused here then.
    pub fn admit(&self, verb: Verb) -> Result<(), Refused> {
        if verb.is_about_the_cluster() { self.check(verb, &Sought::Cluster(verb.kind())) } else { Ok(()) }
    }

    /// Fills a page with what he sees: rows are read on until it is full or there are no more.
    pub(super) fn seen_page<T>(
        &self,
        after: Option<&str>,
        first: usize,
        read: impl Fn(Option<&str>, usize) -> Result<Page<T>, Refused>,
        sees: impl Fn(&T) -> bool,
    ) -> Result<Page<T>, Refused> {
        if self.is_node() {
            return read(after, first);
        }
        let mut page = Page::default();
        let mut from = after.map(str::to_owned);
        loop {
            let read = read(from.as_deref(), first.saturating_sub(page.items.len()).max(1))?;
            for (key, item) in read.items {
                if !sees(&item) {
                    continue;
                }
                if page.items.len() == first {
                    // Where the next page begins is the last that he sees: no other row is told of.
                    page.last_seen = page.items.last().map(|(key, _)| key.clone());
                    page.has_next = true;
                    return Ok(page);
                }
                page.items.push((key, item));
            }
            // Whether another row follows is known only once one that he sees was found.
            if !read.has_next {
                return Ok(page);
            }
            if read.last_seen.is_none() || read.last_seen == from {
                return Ok(page);
            }
            from = read.last_seen;
        }
    }

    /// Tells whether he sees a task.
    pub(super) fn sees_task(&self, record: &TaskRecord) -> bool {
        self.is_node() || self.sees(record)
    }

    /// Tells whether he sees an agent.
    pub(super) fn sees_agent(&self, record: &AgentRecord) -> bool {
        self.is_node() || self.sees(record.spec.id)
    }

    /// Tells whether he sees an event: that of a thing that he sees, or of the cluster if he sees that.
    pub fn sees_event(&self, event: &EventRecord) -> bool {
        if self.is_node() {
            return true;
        }
        let text = |field: &str| event.data.get(field).and_then(serde_json::Value::as_str);
        let named = |field: &str| text(field).and_then(|text| text.parse::<Key>().ok());
        // The most particular thing that it names. Of what was removed only those hear who see the whole cluster.
        let sought = event.agent.map(Sought::Agent).or_else(|| sought_of(&event.stream));
        let sought =
            sought.or_else(|| ["key", "vm", "swarm", "host", "project"].into_iter().find_map(|field| sought_of(&named(field)?)));
        self.sees(sought.unwrap_or(Sought::Cluster(ResourceKind::Cluster)))
    }

    /// Tells whether what a key names is there, as this node knows it.
    pub(super) fn is_there(&self, key: &Key) -> bool {
        self.house.directory.read(|known| match (Entity::of(key), sought_of(key)) {
            (Some(entity), _) => known.place(entity).is_some(),
            (None, Some(Sought::Network(id))) => known.fleet.networks.all.contains_key(&id),
            (None, Some(Sought::Image(id))) => known.fleet.images.contains_key(&id),
            (None, Some(Sought::Project(id))) => known.parts.projects.has(id),
            _ => false,
        })
    }

    /// Returns an operation's id as it is kept: those of a project are its own, so that nobody meets another's.
    pub fn scoped(&self, operation: &str) -> Arc<str> {
        match self.asking.project {
            ProjectId::DEFAULT => operation.into(),
            project => format!("{project}/{operation}").into(),
        }
    }
}

/// Returns the thing that a key names, if it is one of those that clients see.
pub(super) fn sought_of(key: &Key) -> Option<Sought<'static>> {
    match key.noun() {
        SwarmId::NOUN => SwarmId::try_from(key).ok().map(Sought::Swarm),
        AgentId::NOUN => AgentId::try_from(key).ok().map(Sought::Agent),
        VmId::NOUN => VmId::try_from(key).ok().map(Sought::Vm),
        HostId::NOUN => HostId::try_from(key).ok().map(Sought::Host),
        NetworkId::NOUN => NetworkId::try_from(key).ok().map(Sought::Network),
        ImageId::NOUN => ImageId::try_from(key).ok().map(Sought::Image),
        ProjectId::NOUN => ProjectId::try_from(key).ok().map(Sought::Project),
        _ => None,
    }
}

/// Returns the roles that somebody has in a project, or in the cluster: by his credential, and as a member.
fn roles(known: &Known, who: &Principal, project: Option<ProjectId>) -> Roles {
    let mut roles = Roles::among(who.grants.iter(), project);
    roles.extend(known.parts.projects.grants(&who.name, &who.groups, project).into_iter().map(|grant| grant.role));
    roles
}
