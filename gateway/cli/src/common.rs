//! What every command takes: which node, how data is shown, how long is waited.

use std::{path::PathBuf, time::Duration};

use hiveward_contract::home;

use crate::{
    args,
    client::Client,
    fail::Outcome,
    show::{Format, Show},
};

/// The heading under which `--help` shows what every command takes, so that it does not hide what this one does.
const EVERYWHERE: &str = "Options of every command";

#[derive(clap::Args, Clone)]
pub struct Common {
    /// The node to talk to
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "HIVEWARD_URL", default_value = "http://127.0.0.1:7700")]
    pub url: String,
    /// The token to show it; else the one in the data directory
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "HIVEWARD_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Where the node keeps its data (and its administrator's token)
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "HIVEWARD_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// The project in which names are looked up and new things are made; else your only one, or default
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "HIVEWARD_PROJECT")]
    pub project: Option<String>,
    /// How data is shown
    #[arg(short, long, global = true, help_heading = EVERYWHERE, value_enum, default_value_t)]
    pub output_format: Format,
    /// Only what identifies the result
    #[arg(short, long, global = true, help_heading = EVERYWHERE)]
    pub quiet: bool,
    /// Give up waiting after this long, such as 30s, 5m or 1h
    #[arg(long, global = true, help_heading = EVERYWHERE, value_parser = args::duration)]
    pub timeout: Option<Duration>,
}

impl Common {
    /// Makes the client that talks to the node. Fails if there is no token.
    pub fn client(&self) -> Outcome<Client> {
        let dirs = match &self.data_dir {
            Some(dir) => vec![dir.clone()],
            None => vec![home::default_data_dir(), home::dev_data_dir()],
        };
        Ok(Client::new(&self.url, self.token.clone(), &dirs, self.timeout)?.in_project(self.project.clone()))
    }

    /// Returns how data is shown.
    pub fn show(&self) -> Show {
        Show { format: self.output_format, quiet: self.quiet }
    }
}
