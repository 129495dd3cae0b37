//! Chat templates, rendered as transformers renders them (utils/chat_template_utils.py): Jinja with trim_blocks,
//! lstrip_blocks and loop controls, Python's methods of strings, lists and dicts, tojson without HTML's escapes.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior};
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};
use std::ffi::{c_char, CString};
use std::io;

/// Noncharacters: no text has them.
pub const BEGIN: char = '\u{FDD0}';
pub const END: char = '\u{FDD1}';

const FUEL: u64 = 50_000_000; // instructions; a template that loops for ever ends
const MAX_RECURSION: usize = 200;

/// Python's json.dumps: a space behind ',' and ':'.
struct Spaced(CompactFormatter);

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }
    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }
    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

fn failed(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

fn to_json(value: Value, kwargs: Kwargs) -> Result<Value, Error> {
    use serde::Serialize;
    let indent: Option<usize> = kwargs.get("indent")?;
    let _: Option<bool> = kwargs.get("ensure_ascii")?;
    kwargs.assert_all_used()?;
    let mut out = Vec::new();
    let written = match indent {
        None => value.serialize(&mut Serializer::with_formatter(&mut out, Spaced(CompactFormatter))),
        Some(count) => {
            let spaces = vec![b' '; count.min(16)];
            value.serialize(&mut Serializer::with_formatter(&mut out, PrettyFormatter::with_indent(&spaces)))
        }
    };
    written.map_err(|e| failed(e.to_string()))?;
    Ok(Value::from(String::from_utf8_lossy(&out).into_owned()))
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(failed(message))
}

/// The C library's struct tm: 56 bytes in glibc.
#[repr(C, align(8))]
struct BrokenDownTime([u8; 64]);

extern "C" {
    fn time(out: *mut i64) -> i64;
    fn localtime_r(time: *const i64, out: *mut BrokenDownTime) -> *mut BrokenDownTime;
    fn strftime(out: *mut c_char, size: usize, format: *const c_char, time: *const BrokenDownTime) -> usize;
}

/// Python's datetime.now().strftime(format).
fn strftime_now(format: String) -> Result<Value, Error> {
    let format = CString::new(format).map_err(|e| failed(e.to_string()))?;
    let mut text = [0u8; 256];
    let length = unsafe {
        let now = time(std::ptr::null_mut());
        let mut parts = BrokenDownTime([0; 64]);
        localtime_r(&now, &mut parts);
        strftime(text.as_mut_ptr().cast(), text.len(), format.as_ptr(), &parts)
    };
    Ok(Value::from(String::from_utf8_lossy(&text[..length]).into_owned()))
}

/// minijinja does not know {% generation %}. In its place stands an `if` whose body is the mark, with the same
/// whitespace control, so that what is trimmed around the tag stays trimmed. Also whether there was one.
fn rewrite_generation(template: &str) -> (String, bool) {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    let mut found = false;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        let Some(length) = tag.find("%}").map(|end| end + 2) else { break };
        let (left, inner, right) = control(&tag[2..length - 2]);
        let body = match inner.trim() {
            "generation" => Some(BEGIN),
            "endgeneration" => Some(END),
            _ => None,
        };
        out.push_str(before);
        match body {
            Some(character) => {
                found = true;
                out.push_str(&format!("{{%{left} if true %}}{character}{{% endif {right}%}}"));
            }
            None => out.push_str(&tag[..length]),
        }
        rest = &tag[length..];
    }
    out.push_str(rest);
    (out, found)
}

/// "- generation +" -> ("-", " generation ", "+")
fn control(tag: &str) -> (&str, &str, &str) {
    let is_control = |c: char| c == '-' || c == '+';
    let (left, inner) = if tag.starts_with(is_control) { tag.split_at(1) } else { ("", tag) };
    if inner.len() > 1 && inner.ends_with(is_control) {
        let (inner, right) = inner.split_at(inner.len() - 1);
        (left, inner, right)
    } else {
        (left, inner, "")
    }
}

pub fn has_generation(template: &str) -> bool {
    rewrite_generation(template).1
}

/// `context` is a JSON object: messages, tools, add_generation_prompt, bos_token, ….
pub fn render(template: &str, context: &[u8]) -> Result<String, String> {
    // Not by serde_json's own type, which forgets the order of keys.
    let context: Value = serde_json::from_slice(context).map_err(|e| e.to_string())?;
    let (source, _) = rewrite_generation(template);
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(|e| e.to_string())?);
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(MAX_RECURSION);
    env.add_filter("tojson", to_json);
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", strftime_now);
    env.render_str(&source, context).map_err(|e| format!("{e:#}"))
}
