//! `hiveward image …`

use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    args::Input,
    client::{Client, VM},
    fail::{Failed, Outcome},
    host::size,
    lookup,
    show::{Show, text},
    vm::copy,
};
use crate::pages::pages;

#[derive(Subcommand)]
pub enum ImageCommand {
    /// Bring an image: what the disks of VMs begin as
    Import {
        /// A qcow2 or raw file on the node's machine, or an http or https URL
        source: String,
        /// Else made of the file's name
        #[arg(long)]
        name: Option<String>,
        /// sha256:… or blake3:…; other bytes are refused
        #[arg(long)]
        checksum: Option<String>,
        #[arg(long)]
        operation_id: Option<String>,
    },
    /// Make an image of a VM's system disk as it is now; the VM runs on
    Create {
        /// By id or name
        #[arg(long, value_name = "VM")]
        from_vm: String,
        /// Of the image
        #[arg(long)]
        name: String,
        #[arg(long)]
        operation_id: Option<String>,
    },
    /// List images with how many VMs are made of each
    List {
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Show all of one image
    Show { image: String },
    /// Remove an image that no VM is made of
    Remove { image: String },
}

/// The time between two questions whether a long import has ended.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Runs `hiveward image …`.
pub async fn run(client: &Client, show: Show, command: ImageCommand) -> Outcome {
    match command {
        ImageCommand::Import { source, name, checksum, operation_id } => {
            let name = name.unwrap_or_else(|| name_of(&source));
            let source = absolute(source)?;
            let input = Input::default()
                .set("operationId", operation_id.map(Value::from))
                .set("name", Value::from(name))
                .set("source", Value::from(source))
                .set("checksum", checksum.map(Value::from))
                .done();
            show.done(&import(client, &input).await?)
        }
        ImageCommand::Create { from_vm, name, operation_id } => {
            copy::template(client, &from_vm, &name, operation_id).await?;
            show.done(&named(client, &name).await?.unwrap_or(Value::Null))
        }
        ImageCommand::List { limit } => {
            let images = pages(client, VM, "ImageList", json!({}), "images", limit).await?;
            show.list(&["id", "name", "format", "size", "disk", "vms", "hash"], &images, |image| {
                vec![
                    text(image, "id"),
                    text(image, "name"),
                    text(image, "format"),
                    size(&image["bytes"]),
                    size(&image["virtualBytes"]),
                    text(image, "vmCount"),
                    text(image, "hash").chars().take(12).collect(),
                ]
            })
        }
        ImageCommand::Show { image } => {
            let id = lookup::id(client, &lookup::IMAGE, &image).await?;
            show.one(&named(client, &id).await?.unwrap_or_default())
        }
        ImageCommand::Remove { image } => {
            let input = json!({ "image": lookup::reference(client, &lookup::IMAGE, &image).await? });
            show.done(&client.get::<Value>(VM, "ImageRemove", json!({ "input": input }), "/removeImage/image").await?)
        }
    }
}

/// Returns the source as the node must be told, which reads it and has another working directory.
pub fn absolute(source: String) -> Outcome<String> {
    if source.contains("://") {
        return Ok(source);
    }
    let whole = std::path::absolute(&source).map_err(|error| Failed::local(format!("{source}: {error}")))?;
    Ok(whole.display().to_string())
}

/// Asks for an import until the image is there: the node goes on with a long one.
pub async fn import(client: &Client, input: &Value) -> Outcome<Value> {
    loop {
        match client.get(VM, "ImageImport", json!({ "input": input }), "/importImage/image").await {
            Err(failed) if failed.what.contains("still under way") => tokio::time::sleep(ASK_EVERY).await,
            done => return done,
        }
    }
}

/// Finds an image by its name or its id.
pub async fn named(client: &Client, name: &str) -> Outcome<Option<Value>> {
    let found = pages(client, VM, "ImageList", json!({}), "images", 10_000).await?;
    Ok(found.into_iter().find(|one| one["name"] == name || one["id"] == name))
}

/// Makes a name of a source: `/x/debian-12.qcow2` and `https://h/debian-12.qcow2?a=b` become `debian-12`.
pub fn name_of(source: &str) -> String {
    let path = source.split(['?', '#']).next().unwrap_or_default();
    let file = path.rsplit('/').next().unwrap_or_default();
    let stem = [".qcow2", ".img", ".raw"].iter().find_map(|end| file.strip_suffix(end)).unwrap_or(file);
    stem.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_named_after_its_file() {
        for (source, name) in
            [("/x/debian-12.qcow2", "debian-12"), ("https://h/a/noble server.img?t=1", "noble-server"), ("disk", "disk")]
        {
            assert_eq!(name_of(source), name);
        }
    }
}
