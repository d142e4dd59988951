//! The template engine, and templates compiled once for all machines.

use std::{
    io::{self, Write},
    sync::{Arc, LazyLock, PoisonError, RwLock},
};

use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};

/// At most this many steps of the engine: far more than a config of hundreds of files needs, and done in well under 100 ms.
const FUEL: u64 = 200_000;
/// At most this many bytes of a rendered text. Steps do not bound it: one can make a long text of a short one.
pub const LIMIT: usize = 1 << 20;
/// So many compiled templates, and so many bytes of their texts, are kept. A site has few Profiles, each with few templates; where there
/// are more, all are compiled anew now and then.
const MOST: usize = 256;
const MOST_BYTES: usize = 4 << 20;

/// Templates that were compiled, by their texts, since Profiles change. Whoever renders holds the lock for no longer than it takes to
/// get at them: a template that renders slowly holds up nobody.
static COMPILED: LazyLock<RwLock<Compiled>> = LazyLock::new(RwLock::default);

struct Compiled {
    engine: Arc<Environment<'static>>,
    bytes: usize,
}

impl Default for Compiled {
    fn default() -> Self {
        Self { engine: Arc::new(engine()), bytes: 0 }
    }
}

fn engine() -> Environment<'static> {
    let mut engine = Environment::new();
    engine.set_undefined_behavior(UndefinedBehavior::Strict);
    engine.set_fuel(Some(FUEL));
    // By default a template's name decides, and here the name is its text.
    engine.set_auto_escape_callback(|_| AutoEscape::None);
    engine
}

/// Renders a template, to at most [`LIMIT`] bytes.
pub fn render(template: &str, facts: &Value) -> Result<String, Error> {
    let known = Arc::clone(&COMPILED.read().unwrap_or_else(PoisonError::into_inner).engine);
    let engine = if known.get_template(template).is_ok() { known } else { with(template)? };
    let mut text = Bounded(Vec::new());
    engine.get_template(template)?.render_captured_to(facts, &mut text)?;
    String::from_utf8(text.0).map_err(|_| Error::new(ErrorKind::WriteFailure, "renders to bytes that are no text"))
}

/// The engine, with one template more.
fn with(template: &str) -> Result<Arc<Environment<'static>>, Error> {
    let mut compiled = COMPILED.write().unwrap_or_else(PoisonError::into_inner);
    let full = compiled.engine.templates().count() >= MOST || compiled.bytes + template.len() > MOST_BYTES;
    let (mut engine, bytes) = if full { (engine(), 0) } else { ((*compiled.engine).clone(), compiled.bytes) };
    engine.add_template_owned(template.to_owned(), template.to_owned())?;
    *compiled = Compiled { engine: Arc::new(engine), bytes: bytes + template.len() };
    Ok(Arc::clone(&compiled.engine))
}

/// Takes no more than [`LIMIT`] bytes.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > LIMIT {
            return Err(io::Error::other(format!("renders to more than {LIMIT} bytes, which is all that is served")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether a template can be compiled.
pub fn check(template: &str) -> Result<(), Error> {
    engine().template_from_str(template).map(drop)
}

#[cfg(test)]
mod tests {
    use minijinja::context;

    use super::*;

    #[test]
    fn the_text_of_a_template_is_no_name_that_means_anything() {
        let facts = context! { name => "a<b" };
        for template in ["{{ name }}.html", "{{ name }}.json", "{{ name }}"] {
            for _ in 0..2 {
                assert_eq!(render(template, &facts).unwrap(), template.replace("{{ name }}", "a<b"));
            }
        }
        assert_eq!(render("{{ name }}", &context! { name => "c" }).unwrap(), "c", "compiled once, not rendered once");
    }

    #[test]
    fn so_many_are_kept() {
        for number in 0..MOST * 2 {
            assert_eq!(render(&format!("{number} {{{{ a }}}}"), &context! { a => 1 }).unwrap(), format!("{number} 1"));
        }
        assert!(COMPILED.read().unwrap().engine.templates().count() <= MOST);
    }

    #[test]
    fn a_long_text_ends_where_no_more_is_served() {
        let long = "{% for i in range(1000) %}{{ 'x' * 1000000 }}{% endfor %}";
        let error = render(long, &context! {}).unwrap_err();
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(cause.contains("more than 1048576 bytes"), "{error} {cause}");
    }
}
