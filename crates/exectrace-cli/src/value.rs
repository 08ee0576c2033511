//! Values of fields, as JSON and as people read them.

use std::fmt::Write;

use serde::Serialize;
use serde::Serializer;
use trace::encode::schema;
use trace_decode::Session;
use trace_decode::Tables;
use trace_decode::Value;
use trace_decode::text;

use crate::json;
use crate::output::push_safe;
use crate::time;

/// A value as JSON.
pub struct Json<'a> {
    /// The value.
    pub value: Value<'a>,
    /// Its session.
    pub session: &'a Session,
    /// The tables that its ids belong to.
    pub tables: &'a Tables,
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match &self.value {
            Value::I64(v) => to.serialize_i64(*v),
            // JSON has no word for these.
            Value::F64(v) if !v.is_finite() => to.serialize_str(&v.to_string()),
            Value::F64(v) => to.serialize_f64(*v),
            Value::Bool(v) => to.serialize_bool(*v),
            Value::Text(v) => to.serialize_str(&json::text(*v)),
            Value::Bytes(v) => to.serialize_str(&hex(v.bytes)),
            Value::String(0) | Value::Task(0) | Value::Thread(0) | Value::Kind(0) => {
                to.serialize_none()
            }
            Value::String(id) => match self.tables.string(*id) {
                Some(v) => to.serialize_str(&json::text(v)),
                None => to.serialize_str(&format!("?{id}")),
            },
            Value::Ticks(v) => to.serialize_u64(self.session.clock().ns(*v)),
            Value::Addr(v) => to.serialize_str(&format!("{v:#x}")),
            Value::Kind(v) => to.serialize_str(&kind_key(self.session, self.tables, *v)),
            Value::Frames(v) => to.collect_seq(v.iter().map(|a| format!("{a:#x}"))),
            Value::List(v) => to.collect_seq(v.iter()),
            Value::U64(v)
            | Value::Stack(v)
            | Value::Task(v)
            | Value::Thread(v)
            | Value::Nanos(v)
            | Value::Flags(v)
            | Value::Fixed(v) => to.serialize_u64(*v),
            other => to.serialize_str(&format!("{other:?}")),
        }
    }
}

/// Appends a value for people.
pub fn push(line: &mut String, value: &Value<'_>, session: &Session, tables: &Tables) {
    let _ = match value {
        Value::I64(v) => write!(line, "{v}"),
        Value::F64(v) => write!(line, "{v}"),
        Value::Bool(v) => write!(line, "{v}"),
        Value::Text(v) => return text::quote(*v, line),
        Value::Bytes(v) => write!(line, "{}", hex(v.bytes)),
        Value::String(0) | Value::Task(0) | Value::Thread(0) | Value::Kind(0) => {
            write!(line, "none")
        }
        Value::String(id) => match tables.string(*id) {
            Some(v) => return text::quote(v, line),
            None => write!(line, "?{id}"),
        },
        Value::Ticks(v) => write!(line, "{}ms", time::ms(session.clock().ns(*v))),
        Value::Addr(v) => write!(line, "{v:#x}"),
        Value::Kind(v) => return push_safe(kind_key(session, tables, *v).as_bytes(), line),
        Value::Frames(v) => write!(line, "{:x?}", v.iter().collect::<Vec<_>>()),
        Value::List(v) => write!(line, "{:?}", v.iter().collect::<Vec<_>>()),
        Value::Thread(v) => write!(line, "T{v}"),
        Value::Nanos(v) => write!(line, "{}", time::duration(*v)),
        Value::Flags(v) => write!(line, "{v:#x}"),
        Value::U64(v) | Value::Stack(v) | Value::Task(v) | Value::Fixed(v) => write!(line, "{v}"),
        other => return push_safe(format!("{other:?}").as_bytes(), line),
    };
}

/// A kind as counts have it: a static kind by its name, a site as `class:name`.
pub fn kind_key(session: &Session, tables: &Tables, kind: u64) -> String {
    if let Some(own) = schema::Kind::from_u64(kind)
        && let Some(spec) = schema::SPECS.iter().find(|s| s.kind == own)
    {
        return spec.name.to_owned();
    }
    if let Some(def) = session.schema(kind) {
        return String::from_utf8_lossy(&def.name).into_owned();
    }
    let Some(site) = tables.site(kind) else { return format!("?{kind}") };
    let class = site.class().map_or("site", |c| c.name());
    match tables.string(site.name) {
        Some(name) => format!("{class}:{}", String::from_utf8_lossy(name.bytes)),
        None => format!("{class}:?{}", site.name),
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}
