//! All that can be asked for: one row for each verb, with what it is about and what somebody must be to ask for it.
//!
//! A verb is called as the field of the API that asks for it. The table is what policies are checked against, what the documents
//! list, and what the tests go through: a verb without a row is refused to everybody.

use crate::resource::ResourceKind;

/// What a verb does to what it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// It changes something.
    Change,
    /// It shows something once.
    Read,
    /// It shows something as it goes on.
    Watch,
}

/// What somebody does who asks for a verb: the actions of policies are grouped by it, and roles are given groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Duty {
    /// Asks what everybody may know who is known at all, such as who he is.
    Ask,
    /// Sees what there is.
    View,
    /// Submits tasks.
    CreateTasks,
    /// Cancels, retries and guides tasks.
    TendTasks,
    /// Makes, changes and removes swarms, agents and VMs.
    ManageAgents,
    /// Enters what is a person's alone: a guest's inside, copies of its data.
    Enter,
    /// Runs the cluster's nodes, hosts, networks and images.
    Operate,
    /// Says who may do what.
    Administer,
}

impl Duty {
    /// All duties.
    pub const ALL: [Self; 8] = [
        Self::Ask,
        Self::View,
        Self::CreateTasks,
        Self::TendTasks,
        Self::ManageAgents,
        Self::Enter,
        Self::Operate,
        Self::Administer,
    ];

    /// Returns the name of the duty's group of actions in policies.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ask => "ask",
            Self::View => "view",
            Self::CreateTasks => "create-tasks",
            Self::TendTasks => "tend-tasks",
            Self::ManageAgents => "manage-agents",
            Self::Enter => "enter",
            Self::Operate => "operate",
            Self::Administer => "administer",
        }
    }
}

/// Declares the verbs: `Variant = "name": Effect ResourceKind Duty`.
macro_rules! verbs {
    ($($(#[$doc:meta])* $Verb:ident = $name:literal : $effect:ident $kind:ident $duty:ident),+ $(,)?) => {
        /// Something that can be asked for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Verb {
            $($(#[$doc])* $Verb,)+
        }

        impl Verb {
            /// All verbs, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$Verb),+];

            /// Returns the verb's name, which is that of the field of the API.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$Verb => $name,)+ }
            }

            /// Returns what the verb does to what it is about.
            pub const fn effect(self) -> Effect {
                match self { $(Self::$Verb => Effect::$effect,)+ }
            }

            /// Returns the kind of thing that the verb is about.
            pub const fn kind(self) -> ResourceKind {
                match self { $(Self::$Verb => ResourceKind::$kind,)+ }
            }

            /// Returns what somebody does who asks for it.
            pub const fn duty(self) -> Duty {
                match self { $(Self::$Verb => Duty::$duty,)+ }
            }
        }
    };
}

verbs! {
    // Tasks, and the questions of who works on them.
    SubmitTask = "submitTask": Change Task CreateTasks,
    SubmitTasks = "submitTasks": Change Task CreateTasks,
    Scatter = "scatter": Change Task CreateTasks,
    CancelTask = "cancelTask": Change Task TendTasks,
    RetryTask = "retryTask": Change Task TendTasks,
    MessageTask = "messageTask": Change Task TendTasks,
    InterruptTask = "interruptTask": Change Task TendTasks,
    TakeOverTask = "takeOverTask": Change Task TendTasks,
    GiveBackTask = "giveBackTask": Change Task TendTasks,
    AnswerApproval = "answerApproval": Change Task TendTasks,
    // Agents and swarms.
    CreateSwarm = "createSwarm": Change Swarm ManageAgents,
    ScaleSwarm = "scaleSwarm": Change Swarm ManageAgents,
    RemoveSwarm = "removeSwarm": Change Swarm ManageAgents,
    CreateAgent = "createAgent": Change Agent ManageAgents,
    StartAgent = "startAgent": Change Agent ManageAgents,
    StopAgent = "stopAgent": Change Agent ManageAgents,
    PauseAgent = "pauseAgent": Change Agent ManageAgents,
    ResumeAgent = "resumeAgent": Change Agent ManageAgents,
    RestartAgent = "restartAgent": Change Agent ManageAgents,
    RemoveAgent = "removeAgent": Change Agent ManageAgents,
    CleanWorkspace = "cleanWorkspace": Change Agent ManageAgents,
    /// A person's hands at an agent's terminal.
    AttachTerminal = "attachTerminal": Watch Agent Enter,
    // What a VM's user does with it.
    CreateVm = "createVm": Change Vm ManageAgents,
    CloneVm = "cloneVm": Change Vm ManageAgents,
    StartVm = "startVm": Change Vm ManageAgents,
    StopVm = "stopVm": Change Vm ManageAgents,
    RebootVm = "rebootVm": Change Vm ManageAgents,
    PauseVm = "pauseVm": Change Vm ManageAgents,
    ResumeVm = "resumeVm": Change Vm ManageAgents,
    ResizeVm = "resizeVm": Change Vm ManageAgents,
    AttachVmDisk = "attachVmDisk": Change Vm ManageAgents,
    DetachVmDisk = "detachVmDisk": Change Vm ManageAgents,
    AttachVmNetwork = "attachVmNetwork": Change Vm ManageAgents,
    DetachVmNetwork = "detachVmNetwork": Change Vm ManageAgents,
    SnapshotVm = "snapshotVm": Change Vm ManageAgents,
    RevertVm = "revertVm": Change Vm ManageAgents,
    RemoveVmSnapshot = "removeVmSnapshot": Change Vm ManageAgents,
    RemoveVm = "removeVm": Change Vm ManageAgents,
    // The inside of a VM.
    ExecInVm = "execInVm": Change Vm Enter,
    FreezeVmFileSystems = "freezeVmFileSystems": Change Vm Enter,
    TypeVmConsole = "typeVmConsole": Change Vm Enter,
    VmConsole = "vmConsole": Watch Vm Enter,
    // Backups are read and written outside the cluster, with the rights of its nodes: nobody may who has a role in a project
    // alone. Where VMs are is for who runs the hosts.
    BackupVm = "backupVm": Change Cluster Operate,
    CancelVmBackup = "cancelVmBackup": Change Vm Operate,
    ScheduleVmBackups = "scheduleVmBackups": Change Cluster Operate,
    UnscheduleVmBackups = "unscheduleVmBackups": Change Vm Operate,
    MigrateVm = "migrateVm": Change Vm Operate,
    CancelVmMigration = "cancelVmMigration": Change Vm Operate,
    RestoreVm = "restoreVm": Change Cluster Operate,
    DrillVmBackup = "drillVmBackup": Change Cluster Operate,
    Rebalance = "rebalance": Change Cluster Operate,
    VmBackups = "vmBackups": Read Cluster Operate,
    VmBackupCheck = "vmBackupCheck": Read Cluster Operate,
    // Hosts, and what VMs are made of and connected by.
    RegisterHost = "registerHost": Change Host Operate,
    DrainHost = "drainHost": Change Host Operate,
    CancelHostDrain = "cancelHostDrain": Change Host Operate,
    DeclareHostLost = "declareHostLost": Change Host Operate,
    RemoveHost = "removeHost": Change Host Operate,
    CreateImageFromVm = "createImageFromVm": Change Vm Operate,
    /// From a file of a node, perhaps.
    ImportImage = "importImage": Change Cluster Operate,
    RemoveImage = "removeImage": Change Image Operate,
    /// Of a bridge of the hosts, perhaps.
    CreateNetwork = "createNetwork": Change Cluster Operate,
    RemoveNetwork = "removeNetwork": Change Network Operate,
    // The cluster.
    CreateJoinToken = "createJoinToken": Change Node Administer,
    DrainNode = "drainNode": Change Node Operate,
    RemoveNode = "removeNode": Change Node Operate,
    InjectFault = "injectFault": Change Cluster Operate,
    Scrub = "scrub": Change Cluster Operate,
    SetBudget = "setBudget": Change Budget Administer,
    RemoveBudget = "removeBudget": Change Budget Administer,
    // Who may do what.
    CreateProject = "createProject": Change Project Administer,
    UpdateProject = "updateProject": Change Project Administer,
    RemoveProject = "removeProject": Change Project Administer,
    AddMember = "addMember": Change Project Administer,
    RemoveMember = "removeMember": Change Project Administer,
    CreateApiKey = "createApiKey": Change ApiKey Administer,
    RevokeApiKey = "revokeApiKey": Change ApiKey Administer,
    ApplyPolicy = "applyPolicy": Change Policy Administer,
    RemovePolicy = "removePolicy": Change Policy Administer,
    // What is shown of each thing to who may see that.
    Tasks = "tasks": Read Task View,
    Approvals = "approvals": Read Task View,
    TaskOutput = "taskOutput": Watch Task View,
    TaskActivity = "taskActivity": Watch Task View,
    Swarms = "swarms": Read Swarm View,
    Agents = "agents": Read Agent View,
    AgentResources = "agentResources": Read Agent View,
    Vms = "vms": Read Vm View,
    VmUsage = "vmUsage": Read Vm View,
    Networks = "networks": Read Network View,
    Images = "images": Read Image View,
    Budgets = "budgets": Read Budget View,
    Usage = "usage": Read Budget View,
    Projects = "projects": Read Project View,
    ApiKeys = "apiKeys": Read ApiKey Administer,
    Policies = "policies": Read Policy Administer,
    Node = "node": Read Cluster Ask,
    Events = "events": Watch Cluster Ask,
    Me = "me": Read Cluster Ask,
    CanI = "canI": Read Cluster Ask,
    CodingPresets = "codingPresets": Read Cluster Ask,
    Cluster = "cluster": Read Cluster Ask,
    // What is the cluster's own. Lists of it are empty for who does not see that.
    Nodes = "nodes": Read Cluster Ask,
    Hosts = "hosts": Read Cluster Ask,
    HostUsage = "hostUsage": Read Host View,
    Metrics = "metrics": Watch Cluster View,
    MetricsHistory = "metricsHistory": Read Cluster View,
    SupervisionTree = "supervisionTree": Read Cluster View,
    Supervision = "supervision": Watch Cluster View,
    Storage = "storage": Read Cluster View,
    SelectHost = "selectHost": Read Cluster View,
    PackingPlan = "packingPlan": Read Cluster View,
    RebalancePlan = "rebalancePlan": Read Cluster View,
    FaultPlaces = "faultPlaces": Read Cluster View,
    Faults = "faults": Read Cluster Operate,
}

impl Verb {
    /// Returns the verb with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|verb| verb.name() == name)
    }

    /// Tells whether it is decided for the cluster alone, before anything is looked up: it is about no thing of a project.
    pub const fn is_about_the_cluster(self) -> bool {
        !self.kind().in_projects()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_verbs_have_a_name_and_each_is_found_by_its_own() {
        let names: BTreeSet<_> = Verb::ALL.iter().map(|verb| verb.name()).collect();
        assert_eq!(names.len(), Verb::ALL.len());
        assert!(Verb::ALL.iter().all(|verb| Verb::named(verb.name()) == Some(*verb)));
        assert_eq!(Verb::named("SubmitTask"), None);
    }
}
