//! The template engine, and templates compiled once for all machines.

use std::sync::{LazyLock, PoisonError, RwLock};

use minijinja::{AutoEscape, Environment, Error, UndefinedBehavior, Value};

/// At most this many steps of the engine: far more than a config of hundreds of files needs, and done in well under 100 ms.
const FUEL: u64 = 200_000;
/// So many compiled templates are kept. A site has few Profiles, each with few templates; one that has more compiles them anew.
const MOST: usize = 256;

/// Made once: filters and tests are some hundred allocations. A template is known by its text, since Profiles change.
static ENGINE: LazyLock<RwLock<Environment<'static>>> = LazyLock::new(|| RwLock::new(engine()));

fn engine() -> Environment<'static> {
    let mut engine = Environment::new();
    engine.set_undefined_behavior(UndefinedBehavior::Strict);
    engine.set_fuel(Some(FUEL));
    // By default a template's name decides, and here the name is its text.
    engine.set_auto_escape_callback(|_| AutoEscape::None);
    engine
}

/// Renders a template.
pub fn render(template: &str, facts: &Value) -> Result<String, Error> {
    {
        let engine = ENGINE.read().unwrap_or_else(PoisonError::into_inner);
        if let Ok(compiled) = engine.get_template(template) {
            return compiled.render(facts);
        }
    }
    let mut engine = ENGINE.write().unwrap_or_else(PoisonError::into_inner);
    if engine.templates().count() >= MOST {
        engine.clear_templates();
    }
    engine.add_template_owned(template.to_owned(), template.to_owned())?;
    engine.get_template(template)?.render(facts)
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
        assert!(ENGINE.read().unwrap().templates().count() <= MOST);
    }
}
