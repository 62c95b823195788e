//! Gives a connector what its program needs to call a model.

use hiveward_catalogue::budget::CallRules;
use hiveward_kernel::{body::Label, id::SwarmId, lease::Lease};

use super::Models;

/// The holder of a pass: whose calls they are, to which the pass is bound and by which usage is added up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub lease: Lease,
    pub swarm: SwarmId,
    /// The life of the agent that began the attempt. Kept with the attempt: the next life that adopts it says the same.
    pub incarnation: u64,
    /// The labels of the task.
    pub labels: Vec<Label>,
    pub rules: CallRules,
}

/// An address and a token. The token is a secret of this node and this attempt: never logged, never stored in clear.
#[derive(Clone)]
pub struct Pass {
    /// `http://127.0.0.1:PORT`; the Anthropic Messages API is below `/anthropic`, the OpenAI-compatible below `/openai/v1`.
    pub url: String,
    pub token: String,
}

/// The way to a model for one node's connectors. No key is in it.
pub trait ModelAccess: std::fmt::Debug + Send + Sync + 'static {
    /// Opens the pass of an attempt, or opens it again after a restart: the same holder gets the same token and address.
    /// Errors say why no model can be called from this node and what to configure.
    fn open(&self, holder: Holder) -> Result<Pass, String>;
    /// Ends the pass: streams under it are cut within a second, and what is asked under it later is refused. Repeating it, and
    /// closing what never was open, does nothing.
    fn close(&self, lease: Lease);
    /// Returns why the newest call under it was refused for good, such as by a budget; `None` if it was not.
    fn refusal(&self, lease: Lease) -> Option<String>;
    /// Lists the models that answered instead of the one that was asked for, as `from → to: why`, in order, each once.
    fn fallbacks(&self, lease: Lease) -> Vec<String>;
    /// Returns what meters its calls, if anything does.
    fn meter(&self) -> Option<Models> {
        None
    }
}

/// The way to models of a node that is given none: every attempt to open a pass fails.
#[derive(Debug)]
pub struct NoModels;

impl ModelAccess for NoModels {
    fn open(&self, _: Holder) -> Result<Pass, String> {
        Err("this node has no model gateway; configure `models.providers`".to_owned())
    }

    fn close(&self, _: Lease) {}

    fn refusal(&self, _: Lease) -> Option<String> {
        None
    }

    fn fallbacks(&self, _: Lease) -> Vec<String> {
        Vec::new()
    }
}
