//! A file that was read: its parameters are filled in, its roles and counts resolved, and each item is an input of the API with
//! an operation id of its content.

use std::collections::BTreeMap;

use hiveward_contract::yaml;
use serde_json::Value;

use super::{
    super::show::text,
    file::{File, Parameter},
};

/// What a file asks for, as inputs of the API.
pub struct Wanted {
    pub swarms: Vec<Value>,
    pub agents: Vec<Value>,
    pub hosts: Vec<Value>,
    pub images: Vec<Value>,
    pub networks: Vec<Value>,
    pub vms: Vec<Value>,
    /// The tasks by swarm; the empty name is the default one.
    pub tasks: BTreeMap<String, Vec<Value>>,
}

impl Wanted {
    /// Reads a file and fills in its parameters, of which `set` overrides the defaults. Errors name the file and what is wrong.
    pub fn read(name: &str, text: &str, set: &[(String, String)]) -> Result<Self, String> {
        let file: File = yaml::read(name, text).map_err(|error| error.to_string())?;
        let mut values = BTreeMap::new();
        for (parameter, default) in file.parameters {
            values.insert(parameter, default.map(Parameter::text));
        }
        for (parameter, value) in set {
            match values.get_mut(parameter) {
                Some(place) => *place = Some(value.clone()),
                None => {
                    return Err(format!(
                        "{name}: there is no parameter {parameter:?} to --set; it declares {:?}",
                        values.keys().collect::<Vec<_>>()
                    ));
                }
            }
        }
        if let Some((missing, _)) = values.iter().find(|(_, value)| value.is_none()) {
            return Err(format!("{name}: the parameter {missing:?} has no default; give it with --set {missing}=VALUE"));
        }
        let value = |name: &str| values.get(name).cloned().flatten();
        let filled = |item: &dyn erased::Json| -> Result<Value, String> {
            let mut json = item.json()?;
            fill(&mut json, &value)?;
            Ok(json)
        };
        let mut wanted = Self {
            swarms: Vec::new(),
            agents: Vec::new(),
            hosts: Vec::new(),
            images: Vec::new(),
            networks: Vec::new(),
            vms: Vec::new(),
            tasks: BTreeMap::new(),
        };
        for item in &file.swarms {
            wanted.swarms.push(filled(item)?);
        }
        for item in &file.agents {
            let mut base = filled(item)?;
            if let Some(role) = &item.profile {
                let known = || file.profiles.keys().cloned().collect::<Vec<_>>().join(", ");
                let profile = file.profiles.get(role);
                let profile = profile.ok_or_else(|| format!("{name}: there is no profile {role:?}; there are: {}", known()))?;
                let mut whole = filled(profile)?;
                if let (Some(whole), Value::Object(own)) = (whole.as_object_mut(), base) {
                    whole.extend(own);
                }
                base = whole;
            }
            wanted.agents.extend(numbered(base, item.count));
        }
        for item in &file.hosts {
            wanted.hosts.push(filled(item)?);
        }
        for item in &file.images {
            wanted.images.push(filled(item)?);
        }
        for item in &file.networks {
            wanted.networks.push(filled(item)?);
        }
        for item in &file.vms {
            wanted.vms.extend(numbered(filled(item)?, item.count));
        }
        for item in &file.tasks {
            let mut task = filled(item)?;
            let swarm = task
                .as_object_mut()
                .and_then(|fields| fields.remove("swarm"))
                .and_then(|swarm| swarm.as_str().map(str::to_owned));
            wanted.tasks.entry(swarm.unwrap_or_default()).or_default().push(task);
        }
        Ok(wanted)
    }
}

/// Returns the item as it is, or so many of it with a number after the name.
fn numbered(base: Value, count: Option<u32>) -> Vec<Value> {
    let Some(count) = count else { return vec![base] };
    let one = |n| {
        let mut one = base.clone();
        one["name"] = format!("{}-{n}", text(&base, "name")).into();
        one
    };
    (1..=count).map(one).collect()
}

mod erased {
    /// Anything that can be written as JSON, behind one pointer.
    pub trait Json {
        fn json(&self) -> Result<serde_json::Value, String>;
    }

    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> Result<serde_json::Value, String> {
            serde_json::to_value(self).map_err(|error| error.to_string())
        }
    }
}

/// Puts the parameters' values into every text.
fn fill(json: &mut Value, value: &impl Fn(&str) -> Option<String>) -> Result<(), String> {
    match json {
        Value::String(text) => *text = yaml::expand(text, value, false)?,
        Value::Array(items) => items.iter_mut().try_for_each(|item| fill(item, value))?,
        Value::Object(fields) => fields.values_mut().try_for_each(|field| fill(field, value))?,
        _ => {}
    }
    Ok(())
}

/// Returns an operation id that is the same for the same content, whoever applies it and whenever.
pub fn operation(kind: &str, run: &str, input: &Value) -> String {
    let mut sorted = String::new();
    canonical(input, &mut sorted);
    let digest = blake3::hash(format!("{kind}\n{run}\n{sorted}").as_bytes());
    format!("apply-{kind}-{}", &digest.to_hex()[..32])
}

fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(fields) => {
            let sorted: BTreeMap<_, _> = fields.iter().collect();
            out.push('{');
            for (name, value) in sorted {
                out.push_str(&format!("{name:?}:"));
                canonical(value, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FILE: &str = "
parameters:
  repo: .
swarms:
  - name: audit
    shards: 2
agents:
  - name: auditor
    count: 2
    swarm: audit
    connector: {worker: {argv: [python3, w.py]}}
  - name: plain
    connector: command
hosts:
  - {name: h1, uri: 'simulated://h1'}
images:
  - {name: debian-12, source: 'https://example.org/debian-12.qcow2', checksum: 'sha256:00'}
networks:
  - {name: red, kind: overlay, cidr: 10.7.0.0/24}
vms:
  - {name: web, count: 2, image: debian-12, cpus: 2, memory: 2GiB, disks: [{name: root, size: 10GiB}], antiAffinity: [web]}
tasks:
  - name: split
    swarm: audit
    command: {argv: [sh, -c, 'ls ${repo} ${HOME}']}
  - name: merge
    swarm: audit
    dependsOn: [split]
    command: {argv: [cat]}
";

    #[test]
    fn a_file_becomes_inputs_with_its_parameters_filled_in() {
        let wanted = Wanted::read("f", FILE, &[("repo".into(), "/src".into())]).unwrap();
        assert_eq!(wanted.swarms[0], json!({"name": "audit", "shards": 2}));
        assert_eq!(wanted.agents[1]["name"], "auditor-2");
        assert_eq!(wanted.agents[0]["connector"], json!({"worker": {"argv": ["python3", "w.py"]}}));
        assert_eq!(wanted.agents[2]["connector"], json!({"command": true}));
        assert_eq!(wanted.hosts[0], json!({"name": "h1", "uri": "simulated://h1"}));
        assert_eq!(wanted.images[0]["source"], "https://example.org/debian-12.qcow2");
        assert_eq!(wanted.networks[0], json!({"name": "red", "kind": "OVERLAY", "cidr": "10.7.0.0/24"}));
        let disks = json!([{"name": "root", "sizeBytes": 10_u64 << 30}]);
        let vm = json!({"name": "web-2", "image": "debian-12", "cpus": 2, "memoryBytes": 2_u64 << 30, "disks": disks, "antiAffinity": ["web"]});
        assert_eq!(wanted.vms[1], vm);
        // Names that the file does not declare belong to the shell.
        assert_eq!(wanted.tasks["audit"][0]["command"]["argv"][2], "ls /src ${HOME}");
        assert!(Wanted::read("f", FILE, &[("rpeo".into(), "x".into())]).err().unwrap().contains("rpeo"));
    }

    #[test]
    fn the_same_content_has_the_same_operation_and_another_has_another() {
        let a = json!({"name": "x", "n": [1, {"b": 2, "a": 1}]});
        let same: Value = serde_json::from_str(r#"{"n": [1, {"a": 1, "b": 2}], "name": "x"}"#).unwrap();
        assert_eq!(operation("agent", "", &a), operation("agent", "", &same));
        assert_ne!(operation("agent", "", &a), operation("agent", "again", &a));
        assert_ne!(operation("agent", "", &a), operation("swarm", "", &a));
        assert!(operation("agent", "", &a).len() <= 128);
    }

    #[test]
    fn a_wrong_field_is_named_with_its_place() {
        let problem = Wanted::read("f.yaml", "tasks:\n  - name: a\n    comand: {argv: [x]}\n", &[]).err().unwrap();
        assert!(problem.contains("line 3") && problem.contains("comand"), "{problem}");
    }
}
