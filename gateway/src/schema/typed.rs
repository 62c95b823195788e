//! Names the input whose scalar cannot be read, such as a number beyond 32 bits. The executor would name only the types
//! around it, and of deep inputs there are many of the same type.

use std::sync::Arc;

use async_graphql::{
    InputType, InputValueResult, Name, Pos, ScalarType, ServerError, ServerResult, Value, Variables,
    extensions::{Extension, ExtensionContext, ExtensionFactory, NextParseQuery},
    parser::types::{ExecutableDocument, OperationType, Selection},
    registry::{MetaType, MetaTypeName, Registry},
};

use super::scalars::{BigInt, Cursor, DateTime};

/// Makes a schema look at the scalars of a request before it is executed.
pub struct Typed;

impl ExtensionFactory for Typed {
    fn create(&self) -> Arc<dyn Extension> {
        Arc::new(Checked)
    }
}

struct Checked;

#[async_graphql::async_trait::async_trait]
impl Extension for Checked {
    async fn parse_query(
        &self,
        ctx: &ExtensionContext<'_>,
        query: &str,
        variables: &Variables,
        next: NextParseQuery<'_>,
    ) -> ServerResult<ExecutableDocument> {
        let document = next.run(ctx, query, variables).await?;
        match misread(&ctx.schema_env.registry, &document, variables) {
            None => Ok(document),
            // In the words of the executor's own checks, from which the input is taken.
            Some((at, path, why)) => Err(ServerError::new(format!("Invalid value for argument \"{path}\", {why}"), Some(at))),
        }
    }
}

/// The first argument of a mutation that cannot be read: where, its path and what it should be.
fn misread(registry: &Registry, document: &ExecutableDocument, variables: &Variables) -> Option<(Pos, String, String)> {
    let mutations = registry.types.get(registry.mutation_type.as_ref()?)?.fields()?;
    let operations = document.operations.iter().filter(|(_, operation)| operation.node.ty == OperationType::Mutation);
    let selected = operations.flat_map(|(_, operation)| &operation.node.selection_set.node.items);
    let called = selected.filter_map(|item| if let Selection::Field(field) = &item.node { Some(&field.node) } else { None });
    called.flat_map(|field| field.arguments.iter().map(|argument| (field.name.node.as_str(), argument))).find_map(
        |(field, (name, value))| {
            let of = &mutations.get(field)?.args.get(name.node.as_str())?.ty;
            // A variable is looked at where it is: it may be as large as a request. A document is small.
            let (path, why) = match value.node.to_string().strip_prefix('$') {
                Some(variable) => unread(registry, of, variables.get(variable)?)?,
                None => {
                    let given = |variable: Name| variables.get(&variable).cloned().ok_or(());
                    unread(registry, of, &value.node.clone().into_const_with(given).ok()?)?
                }
            };
            Some((value.pos, format!("{}{path}", name.node), why))
        },
    )
}

/// The first scalar below a value of the type `of` that cannot be read: its path, and what it should be.
fn unread(registry: &Registry, of: &str, value: &Value) -> Option<(String, String)> {
    let below = |of: &str, value: &Value, step: &dyn std::fmt::Display| {
        unread(registry, of, value).map(|(path, why)| (format!(".{step}{path}"), why))
    };
    match (MetaTypeName::create(of), value) {
        (_, Value::Null) => None,
        (MetaTypeName::NonNull(of), value) => unread(registry, of, value),
        (MetaTypeName::List(of), Value::List(values)) => values.iter().enumerate().find_map(|(n, value)| below(of, value, &n)),
        (MetaTypeName::List(of), value) => unread(registry, of, value),
        (MetaTypeName::Named(of), value) => match (registry.types.get(of)?, value) {
            (MetaType::InputObject { input_fields, .. }, Value::Object(fields)) => {
                fields.iter().find_map(|(name, value)| below(&input_fields.get(name.as_str())?.ty, value, name))
            }
            (MetaType::Scalar { name, .. }, value) => Some((String::new(), scalar(name, value)?)),
            _ => None,
        },
    }
}

fn scalar(name: &str, value: &Value) -> Option<String> {
    fn read<T: ScalarType + InputType>(value: &Value) -> Option<String> {
        let read: InputValueResult<T> = <T as ScalarType>::parse(value.clone());
        Some(read.err()?.into_server_error(Pos::default()).message)
    }
    match (name, value) {
        ("Int", Value::Number(number)) if number.as_i64().is_none_or(|n| i32::try_from(n).is_err()) => {
            Some(format!("an Int is a whole number from {} to {}", i32::MIN, i32::MAX))
        }
        ("BigInt", _) => read::<BigInt>(value),
        ("Cursor", _) => read::<Cursor>(value),
        ("DateTime", _) => read::<DateTime>(value),
        _ => None,
    }
}
