//! `hiveward config …`: checks, shows and describes the configuration of a node.

use std::path::PathBuf;

use clap::Subcommand;
use hiveward_cli::{
    Common,
    fail::{Exit, Failed, Outcome},
    show,
};
use hiveward_gateway::config::{Config, ConfigError, Flags};

#[derive(Subcommand)]
pub enum ConfigCommand {
    /// Check a file; changes nothing
    Check {
        /// In YAML
        file: PathBuf,
    },
    /// Show what is in force: defaults, file and environment
    Show {
        /// Of this file; else of the one that a node would read
        #[arg(long, env = "HIVEWARD_CONFIG")]
        config: Option<PathBuf>,
    },
    /// Print the JSON Schema of the file, for editors
    Schema,
}

/// Returns the failure of a command whose configuration is wrong.
pub fn wrong(error: ConfigError) -> Failed {
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    let exit = if matches!(error, ConfigError::Read { .. }) { Exit::NotFound } else { Exit::Usage };
    Failed::new(
        exit,
        format!("{error}{cause}"),
        "mend it and run `hiveward config check FILE`; `hiveward config schema` has every field",
    )
}

/// Runs `hiveward config …`.
pub fn command(common: &Common, command: ConfigCommand) -> Outcome {
    let flags = Flags { data_dir: common.data_dir.clone(), listen: None, cluster_listen: None };
    match command {
        ConfigCommand::Check { file } => {
            let config = Config::load(Config::default(), Some(&file), std::iter::empty(), &Flags::default()).map_err(wrong)?;
            config.auth("the administrator's own, not read here").map_err(wrong)?;
            eprintln!("{} is fine", file.display());
            Ok(())
        }
        ConfigCommand::Show { config } => {
            let config = Config::load(Config::default(), config.as_deref(), std::env::vars(), &flags).map_err(wrong)?;
            show::print(&show::yaml(&config)?)
        }
        ConfigCommand::Schema => {
            let schema =
                serde_json::to_string_pretty(&schemars::schema_for!(Config)).map_err(|error| Failed::local(error.to_string()))?;
            show::print(&format!("{schema}\n"))
        }
    }
}
