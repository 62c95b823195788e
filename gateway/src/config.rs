//! The configuration: defaults, then the file, then `HIVEWARD_…` environment, then flags.
//!
//! Owns the shape of the file. Unknown fields are refused with line and column. Nested fields have a double underscore
//! in the environment: `HIVEWARD_GATEWAY__REQUESTS_MAX=64`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use hiveward_access::{
    policy::PolicySource,
    role::{Role, UnknownRole},
};
use hiveward_actors::retention::{Retention, TranscriptRetention, ledger::LedgerRetention};
use hiveward_contract::{
    home::default_data_dir,
    yaml::{self, Expanded},
};
use hiveward_runtime::ledger::holes::Holes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    auth::{
        Auth,
        jwt::{self, BadIssuer, Issuers, config::IssuerConfig},
    },
    cluster_config::ClusterSection,
    model::ModelsSection,
    otlp::OtlpConfig,
    retention_config::RetentionSection,
    serve::HttpConfig,
    tls::TlsConfig,
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    pub gateway: HttpConfig,
    pub tls: TlsConfig,
    pub auth: AuthConfig,
    pub authorization: AuthorizationConfig,
    pub node: NodeSection,
    /// How much a node keeps of what has ended.
    pub retention: RetentionSection,
    /// Other nodes: where they reach this one, and how patient they are with each other.
    pub cluster: ClusterSection,
    /// Where agents get answers of language models, and what those cost.
    pub models: ModelsSection,
    pub telemetry: Telemetry,
    /// How long running requests and hand-overs may take after the first SIGTERM.
    pub drain_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: default_data_dir(),
            gateway: HttpConfig::default(),
            tls: TlsConfig::default(),
            auth: AuthConfig::default(),
            authorization: AuthorizationConfig::default(),
            node: NodeSection::default(),
            retention: RetentionSection::default(),
            cluster: ClusterSection::default(),
            models: ModelsSection::default(),
            telemetry: Telemetry::default(),
            drain_ms: 10_000,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// Tokens besides the administrator's own.
    pub tokens: Vec<TokenConfig>,
    /// Issuers whose JSON Web Tokens are accepted.
    pub jwt: Vec<IssuerConfig>,
}

/// What decides who may do what, beside the roles.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuthorizationConfig {
    /// Policies in Cedar's language by which this node goes, beside those that all nodes know.
    pub policy_file: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// Shown in records and logs as who did something.
    pub name: String,
    /// The token, as `${VAR}`; never written out again.
    #[serde(default, skip_serializing)]
    #[schemars(with = "Option<String>")]
    pub token: Option<Expanded>,
    /// A file that holds the token.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// Instead of the token: its BLAKE3 digest, in hexadecimal.
    #[serde(default)]
    pub blake3: Option<String>,
    /// The same as `role: admin`.
    #[serde(default)]
    pub administrator: bool,
    /// What its holder may do in the whole cluster: `viewer`, `task-creator`, `agent-manager` (what it is if nothing is said),
    /// `operator` or `admin`. Roles in a project are given to API keys.
    #[serde(default)]
    pub role: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NodeSection {
    /// Whether faults may be injected through the API and `HIVEWARD_FAULTS`.
    pub allow_faults: bool,
    /// Agents of the `default` swarm that a fresh node begins with; one per core if absent.
    pub default_agents: Option<u32>,
    /// The machine's watchdog, such as `/dev/watchdog`, armed while VMs are here that come back elsewhere: the machine is reset
    /// within 5 s if the process that would end them in time is killed, or they cannot be ended.
    pub watchdog: Option<PathBuf>,
    /// How long transcripts (and outcomes) of ended attempts are kept.
    pub transcripts: Transcripts,
    /// How much of the ledger is kept, and when its file is made smaller.
    pub ledger: LedgerSection,
}

/// Whichever bound is met first counts; what runs is never removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Transcripts {
    pub keep_hours: u64,
    pub attempts_max: u64,
    /// On disk, of all ended attempts together.
    pub bytes_max: u64,
    /// How often it is looked at.
    pub look_every_ms: u64,
}

impl Default for Transcripts {
    fn default() -> Self {
        Self {
            keep_hours: TranscriptRetention::KEEP_DEFAULT.as_secs() / 3600,
            attempts_max: TranscriptRetention::ATTEMPTS_MAX_DEFAULT,
            bytes_max: TranscriptRetention::BYTES_MAX_DEFAULT,
            look_every_ms: TranscriptRetention::LOOK_EVERY_DEFAULT.as_millis() as u64,
        }
    }
}

impl Transcripts {
    /// Returns the bounds that a node keeps transcripts by.
    pub fn retention(&self) -> TranscriptRetention {
        TranscriptRetention {
            keep: Duration::from_secs(self.keep_hours.saturating_mul(3600)),
            attempts_max: self.attempts_max,
            bytes_max: self.bytes_max,
            look_every: Duration::from_millis(self.look_every_ms.max(1)),
        }
    }
}

/// Whichever bound is met first counts. Events that an entity's start needs are kept whatever these say; in a cluster those of
/// the node that leads count, so they are to be the same on all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LedgerSection {
    /// Events from which a client can resume.
    pub events_max: u64,
    /// Of these events on disk, about.
    pub bytes_max: u64,
    pub keep_hours: u64,
    /// A file of which more than this percentage holds nothing is made smaller at the next start.
    pub holes_percent_max: u8,
    /// One that holds more than this is left as it is, because that start would take long.
    pub shrink_bytes_max: u64,
}

impl Default for LedgerSection {
    fn default() -> Self {
        let (kept, holes) = (LedgerRetention::default(), Holes::default());
        Self {
            events_max: kept.events_max,
            bytes_max: kept.bytes_max,
            keep_hours: kept.keep.as_secs() / 3600,
            holes_percent_max: holes.percent_max,
            shrink_bytes_max: holes.live_bytes_max,
        }
    }
}

impl LedgerSection {
    /// Returns the bounds that a node keeps its ledger by.
    pub fn retention(&self) -> LedgerRetention {
        LedgerRetention {
            events_max: self.events_max,
            bytes_max: self.bytes_max,
            keep: Duration::from_secs(self.keep_hours.saturating_mul(3600)),
            ..LedgerRetention::default()
        }
    }

    /// Returns when the ledger's file is made smaller.
    pub fn holes(&self) -> Holes {
        Holes { percent_max: self.holes_percent_max, live_bytes_max: self.shrink_bytes_max, ..Holes::default() }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    pub log_format: LogFormat,
    /// Traces for a collector.
    pub otlp: OtlpConfig,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people on a terminal, JSON lines otherwise.
    #[default]
    Auto,
    Human,
    Json,
}

/// The settings that flags give; each wins over everything else.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    pub data_dir: Option<PathBuf>,
    pub listen: Option<SocketAddr>,
    pub cluster_listen: Option<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Yaml(#[from] yaml::YamlError),
    #[error("{variable}: {problem}")]
    Environment { variable: String, problem: String },
    #[error("{problem}")]
    Gateway { problem: String },
    #[error("{problem}")]
    Models { problem: String },
    #[error("auth.tokens.{index}: {problem}")]
    Token { index: usize, problem: String },
    #[error(transparent)]
    Issuer(#[from] BadIssuer),
}

/// The environment's variables that are no fields of the configuration.
const OTHER: [&str; 8] = ["TOKEN", "URL", "PROJECT", "CONFIG", "FAULTS", "RENEW_SCHEMA", "SHIM", "LIBVIRT_DRIVER"];

impl Config {
    /// Reads the whole configuration, from every layer. `base` are the defaults to start from.
    pub fn load(
        base: Self,
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        flags: &Flags,
    ) -> Result<Self, ConfigError> {
        let mut config = match file {
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
                let read: Self = yaml::read(&path.display().to_string(), &text)?;
                // What the file does not name is the base's, not the general default.
                let names: Value = yaml::read(&path.display().to_string(), &text)?;
                let keep_dir = names.get("data_dir").is_none();
                let keep_peers = names.pointer("/cluster/listen").is_none();
                let keep_faults = names.pointer("/node/allow_faults").is_none();
                Self {
                    data_dir: if keep_dir { base.data_dir } else { read.data_dir.clone() },
                    node: NodeSection {
                        allow_faults: if keep_faults { base.node.allow_faults } else { read.node.allow_faults },
                        ..read.node.clone()
                    },
                    cluster: ClusterSection {
                        listen: if keep_peers { base.cluster.listen } else { read.cluster.listen },
                        ..read.cluster.clone()
                    },
                    ..read
                }
            }
            None => base,
        };
        for (variable, value) in environment {
            config = config.with_variable(&variable, &value)?;
        }
        if let Some(dir) = &flags.data_dir {
            config.data_dir.clone_from(dir);
        }
        if let Some(listen) = flags.listen {
            config.gateway.listen = listen;
        }
        if flags.cluster_listen.is_some() {
            config.cluster.listen = flags.cluster_listen;
        }
        config.gateway.check().map_err(|problem| ConfigError::Gateway { problem })?;
        config.models.check().map_err(|problem| ConfigError::Models { problem })?;
        Ok(config)
    }

    fn with_variable(self, variable: &str, value: &str) -> Result<Self, ConfigError> {
        let Some(name) = variable.strip_prefix("HIVEWARD_").filter(|name| !OTHER.contains(name)) else { return Ok(self) };
        let wrong = |problem: String| ConfigError::Environment { variable: variable.to_owned(), problem };
        let path = if name == "LISTEN" { "gateway/listen".to_owned() } else { name.to_lowercase().replace("__", "/") };
        // Tokens do not survive being written out, and are not set from single variables.
        let (tokens, headers) = (self.auth.tokens.clone(), self.telemetry.otlp.headers.clone());
        let mut whole = serde_json::to_value(&self).map_err(|error| wrong(error.to_string()))?;
        let Some(place) = whole.pointer_mut(&format!("/{path}")) else {
            return Err(wrong(format!("there is no setting `{}`; see `hiveward config show`", path.replace('/', "."))));
        };
        *place = match place {
            Value::String(_) => Value::String(value.to_owned()),
            _ => serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned())),
        };
        let mut config: Self = serde_json::from_value(whole).map_err(|error| wrong(error.to_string()))?;
        config.auth.tokens = tokens;
        config.telemetry.otlp.headers = headers;
        Ok(config)
    }

    /// Returns what this node keeps of what has ended.
    pub fn retention(&self) -> Retention {
        Retention { transcripts: self.node.transcripts.retention(), ..self.retention.retention() }
    }

    /// Returns the policies of this node's own configuration. Errors: their file cannot be read.
    pub fn policies(&self) -> Result<Vec<PolicySource>, ConfigError> {
        let Some(path) = &self.authorization.policy_file else { return Ok(Vec::new()) };
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        Ok(vec![PolicySource { name: path.display().to_string().into(), text: text.into() }])
    }

    /// Returns the issuers whose tokens are accepted, and begins to read their keys. It is to be called in a Tokio runtime.
    /// Errors: what is wrong with one, by its place.
    pub fn issuers(&self) -> Result<Issuers, ConfigError> {
        Ok(Issuers::start(&self.auth.jwt)?)
    }

    /// Returns the accepted tokens: the administrator's and those that are configured. Errors name the token by its place.
    pub fn auth(&self, admin_token: &str) -> Result<Auth, ConfigError> {
        jwt::check(&self.auth.jwt)?;
        let mut tokens = vec![("admin".to_owned(), Auth::digest(admin_token), Role::Admin)];
        for (index, token) in self.auth.tokens.iter().enumerate() {
            let wrong = |problem: &str| ConfigError::Token { index, problem: problem.to_owned() };
            let digest = match (&token.token, &token.token_file, &token.blake3) {
                (Some(Expanded(token)), None, None) if token.len() >= 16 => Auth::digest(token),
                (Some(_), None, None) => return Err(wrong("a token has at least 16 characters")),
                (None, Some(path), None) => {
                    let text =
                        std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
                    if text.trim().len() < 16 {
                        return Err(wrong("a token has at least 16 characters"));
                    }
                    Auth::digest(text.trim())
                }
                (None, None, Some(hex)) => blake3::Hash::from_hex(hex).map_err(|_| wrong("`blake3` is 64 hexadecimal digits"))?,
                _ => return Err(wrong("give exactly one of `token`, `token_file` and `blake3`")),
            };
            let role = match (&token.role, token.administrator) {
                (None, true) => Role::Admin,
                (None, false) => Role::AgentManager,
                (Some(_), true) => return Err(wrong("give `role` or `administrator`, not both")),
                (Some(role), false) => role.parse().map_err(|error: UnknownRole| wrong(&error.to_string()))?,
            };
            tokens.push((token.name.clone(), digest, role));
        }
        Ok(Auth::new(tokens))
    }
}

#[cfg(test)]
mod tests {
    use hiveward_access::role::Grant;

    use super::*;

    fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.yaml");
        std::fs::write(&path, text).unwrap();
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(Config::default(), Some(&path), environment, &Flags::default())
    }

    #[test]
    fn the_environment_wins_over_the_file_and_flags_over_both() {
        let environment = [
            ("HIVEWARD_GATEWAY__REQUESTS_MAX", "7"),
            ("HIVEWARD_DATA_DIR", "/e"),
            ("HIVEWARD_TOKEN", "x"),
            ("HIVEWARD_LIBVIRT_DRIVER", "/d"),
            ("PATH", "/bin"),
        ];
        let config = load("data_dir: /f\ngateway:\n  requests_max: 5\n  connections_max: 9\n", &environment).unwrap();
        assert_eq!((config.gateway.requests_max, config.gateway.connections_max), (7, 9));
        assert_eq!(config.data_dir, PathBuf::from("/e"));
        let flags = Flags { data_dir: Some("/g".into()), listen: Some("127.0.0.1:1".parse().unwrap()), cluster_listen: None };
        let config = Config::load(config, None, std::iter::empty(), &flags).unwrap();
        assert_eq!((config.data_dir, config.gateway.listen.port()), (PathBuf::from("/g"), 1));
    }

    #[test]
    fn what_is_kept_of_the_ledger_is_as_configured() {
        let text = "node:\n  ledger:\n    events_max: 1000\n    keep_hours: 2\n";
        let config = load(text, &[("HIVEWARD_NODE__LEDGER__HOLES_PERCENT_MAX", "40")]).unwrap();
        let (kept, holes) = (config.node.ledger.retention(), config.node.ledger.holes());
        assert_eq!((kept.events_max, kept.keep), (1000, Duration::from_secs(7200)));
        assert_eq!((kept.bytes_max, holes.percent_max), (LedgerRetention::BYTES_MAX_DEFAULT, 40));
    }

    #[test]
    fn a_wrong_setting_is_named_with_its_place() {
        let message = load("gateway:\n  request_max: 5\n", &[]).unwrap_err().to_string();
        assert!(message.contains("line 2") && message.contains("request_max"), "{message}");
        let message = load("", &[("HIVEWARD_GATEWAY__REQUESTS", "1")]).unwrap_err().to_string();
        assert!(message.contains("gateway.requests"), "{message}");
        let message = load("", &[("HIVEWARD_GATEWAY__REQUESTS_MAX", "many")]).unwrap_err().to_string();
        assert!(message.contains("HIVEWARD_GATEWAY__REQUESTS_MAX"), "{message}");
    }

    #[test]
    fn a_configured_token_is_accepted_and_never_shown() {
        let config = load(
            "auth:\n  tokens:\n    - name: ci\n      token: ${NOT_SET_HERE:-0123456789abcdef}\n",
            &[("HIVEWARD_DRAIN_MS", "5")],
        )
        .unwrap();
        let auth = config.auth("hw_admin").unwrap();
        let ci = auth.token("0123456789abcdef").unwrap();
        assert_eq!((&*ci.name, &*ci.grants), ("ci", &[Grant::everywhere(Role::AgentManager)][..]));
        assert_eq!(*auth.token("hw_admin").unwrap().grants, [Grant::everywhere(Role::Admin)]);
        assert!(!serde_json::to_string(&config).unwrap().contains("0123456789abcdef"));
        assert!(!format!("{config:?}").contains("0123456789abcdef"));
        assert!(load("auth:\n  tokens:\n    - name: ci\n      token: short\n", &[]).unwrap().auth("x").is_err());
    }
}
