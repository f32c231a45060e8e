use super::*;

fn faults(text: &str) -> Vec<String> {
    match Dialect::parse("bad.toml", text) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn every_builtin_loads_under_its_name() {
    let names: Vec<&str> = Dialect::builtins().collect();
    assert!(names.is_sorted());
    for name in names {
        let text = Dialect::builtin_text(name).unwrap();
        assert_eq!(faults(text), Vec::<String>::new(), "{name}");
        assert_eq!(Dialect::builtin(name).unwrap().name(), name);
    }
    assert!(Dialect::builtin("nosuch").is_none());
}

#[test]
fn the_bench_dialect_loads() {
    assert_eq!(faults(include_str!("../../../benches/bench-dialect.toml")), Vec::<String>::new());
}
