//! `hiveward vm clone`, and what `hiveward image create` asks of a VM.

use serde_json::{Value, json};

use super::{
    super::{
        args::Input,
        client::{Client, VM},
        fail::Outcome,
        lookup,
    },
    ended, named, resolve,
};

pub struct Clone {
    pub vm: String,
    pub name: String,
    pub on: Option<String>,
    pub no_start: bool,
    pub operation_id: Option<String>,
    pub no_wait: bool,
}

/// Clones a VM; returns the new one, or with `no_wait` the one that it is made of.
pub async fn clone(client: &Client, new: Clone) -> Outcome<Value> {
    let input = Input::default()
        .set("operationId", new.operation_id.map(Value::from))
        .set("vm", Value::from(resolve(client, &new.vm).await?))
        .set("name", Value::from(new.name.as_str()))
        .set("host", lookup::optional(client, &lookup::HOST, new.on).await?)
        .set("start", new.no_start.then_some(Value::Bool(false)))
        .done();
    let begun = client.get(VM, "VmClone", json!({ "input": input }), "/cloneVm/vm").await?;
    if new.no_wait {
        return Ok(begun);
    }
    let source = ended(client, begun).await?;
    // A clone that was removed at once is shown as what it was made of.
    let Some(made) = named(client, &new.name).await? else { return Ok(source) };
    let made: Value = client.get(VM, "VmOperation", json!({ "id": made }), "/node").await?;
    let creation = made["operations"].as_array().into_iter().flatten().find(|operation| operation["kind"] == "create").cloned();
    let mut begun = made;
    begun["operation"] = creation.unwrap_or_default();
    ended(client, begun).await
}

/// Makes an image of a VM's system disk; returns the VM when the image is there.
pub async fn template(client: &Client, vm: &str, name: &str, operation_id: Option<String>) -> Outcome<Value> {
    let input = Input::default()
        .set("operationId", operation_id.map(Value::from))
        .set("vm", Value::from(resolve(client, vm).await?))
        .set("name", Value::from(name))
        .done();
    let begun = client.get(VM, "ImageFromVm", json!({ "input": input }), "/createImageFromVm/vm").await?;
    ended(client, begun).await
}
