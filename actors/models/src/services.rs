//! Holds what the accounting of models stands on.

use std::sync::Arc;

use hiveward_catalogue::platform::Platform;

use super::{ModelAccess, Models, bank::Counter, table::UsageTable};

/// The services of the accounting. They are cheap to clone; all clones are one.
#[derive(Clone)]
pub struct ModelServices(Arc<ModelParts>);

impl std::ops::Deref for ModelServices {
    type Target = ModelParts;

    fn deref(&self) -> &ModelParts {
        &self.0
    }
}

/// The parts of [`ModelServices`].
pub struct ModelParts {
    platform: Platform,
    models: Arc<dyn ModelAccess>,
    counter: Counter,
    pub usage: UsageTable,
}

impl std::ops::Deref for ModelParts {
    type Target = Platform;

    fn deref(&self) -> &Platform {
        &self.platform
    }
}

impl ModelServices {
    /// Puts the services together for a node whose connectors reach models in this way.
    pub fn new(platform: Platform, models: Arc<dyn ModelAccess>) -> Self {
        let usage = UsageTable::new(platform.views.clone());
        let counter = models.meter().map(|models| models.counter().clone()).unwrap_or_default();
        Self(Arc::new(ModelParts { platform, models, counter, usage }))
    }

    /// Returns what meters calls of models here, if anything does.
    pub fn models(&self) -> Option<Models> {
        self.models.meter()
    }

    /// Returns the way to models for this node's connectors.
    pub fn access(&self) -> &Arc<dyn ModelAccess> {
        &self.models
    }

    /// Has this node go by the budgets that the directory has, and what the view says was spent of them.
    pub fn know_budgets(&self) {
        let (scopes, at) =
            (self.directory.read(|known| known.parts.budgets.all.keys().cloned().collect()), self.directory.cursor());
        self.counter.know(scopes, at.0);
        self.counter.refresh();
    }

    /// Returns where calls of models wait for their turn.
    pub fn counter(&self) -> &Counter {
        &self.counter
    }
}
