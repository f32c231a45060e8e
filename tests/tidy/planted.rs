//! Violations planted on purpose: each rule must see its own.

use super::{Complaints, File, parts, rules};

fn file(path: &str, text: &str) -> File {
    File { path: path.to_owned(), text: text.to_owned() }
}

/// The lines complained about.
fn lines(complaints: &Complaints) -> Vec<usize> {
    complaints.iter().map(|complaint| complaint.split(':').nth(1).unwrap().parse().unwrap()).collect()
}

#[test]
fn a_long_function_is_seen() {
    let body = "    let x = 1;\n".repeat(69);
    let exact = format!("//! x\nimpl A {{\n    pub fn fits() {{\n{}    }}\n}}\n", "        let x = 1;\n".repeat(68));
    assert_eq!(rules::budgets(&[file("src/a.rs", &exact)], &[]), Complaints::new());
    let long = format!("pub(crate) async fn grows(\n    a: u8,\n) {{\n{body}}}\nfn short() {{}}\n");
    let said = rules::budgets(&[file("src/a.rs", &long)], &[]);
    assert_eq!(said, ["src/a.rs::grows: 73 code lines, the budget is 70: split it by noun"]);
}

#[test]
fn a_long_file_is_seen_and_comments_do_not_count() {
    let fits = format!("{}{}", "// why\n\n".repeat(100), "const A: u8 = 1;\n".repeat(500));
    assert_eq!(rules::budgets(&[file("src/a.rs", &fits)], &[]), Complaints::new());
    assert_eq!(rules::budgets(&[file("src/a.rs", &format!("{fits}const B: u8 = 1;\n"))], &[]).len(), 1);
}

#[test]
fn the_ratchet_only_shrinks() {
    let long = [file("src/a.rs", &"const A: u8 = 1;\n".repeat(510))];
    assert_eq!(rules::budgets(&long, &[("src/a.rs", 510)]), Complaints::new());
    assert_eq!(rules::budgets(&long, &[("src/a.rs", 509)]).len(), 1, "grew");
    assert_eq!(rules::budgets(&long, &[("src/a.rs", 511)]).len(), 1, "shrank, the entry is loose");
    assert_eq!(rules::budgets(&[file("src/a.rs", "")], &[("src/a.rs", 510)]).len(), 1, "needed no more");
    assert_eq!(rules::budgets(&long, &[("src/a.rs", 510), ("src/b.rs", 600)]).len(), 1, "no such file");
}

#[test]
fn impurity_is_seen_in_code_only() {
    let clean = "//! Knows no tokio and no SystemTime.\nconst A: &str = \"std::fs\"; // .await\n";
    assert_eq!(rules::purity(&file("src/relay/a.rs", clean)), Complaints::new());
    let planted = "use std::fs;\nlet now = std::time::Instant::now();\nlet x = y.await;\nstd::thread::spawn(f);\n";
    assert_eq!(lines(&rules::purity(&file("src/relay/a.rs", planted))), [1, 2, 3, 4]);
}

#[test]
fn iteration_over_a_hash_table_is_seen() {
    let clean = "struct A { by_name: HashMap<u8, u8>, rest: Vec<u8> }\na.by_name.get(&1);\nfor x in &a.rest {\n}\n";
    assert_eq!(rules::purity(&file("src/relay/a.rs", clean)), Complaints::new());
    let field =
        "struct A {\n    by_name: HashMap<u8, u8>,\n}\nfor x in &self.by_name {\n}\nself.by_name.retain(|_| true);\n";
    assert_eq!(lines(&rules::purity(&file("src/relay/a.rs", field))), [4, 6]);
    let local = "let mut seen = HashSet::new();\nlet n = seen.iter().count();\n";
    assert_eq!(lines(&rules::purity(&file("src/relay/a.rs", local))), [2]);
    let typed = "let seen: HashMap<A, B> = HashMap::new();\nseen.values().sum();\n";
    assert_eq!(lines(&rules::purity(&file("src/relay/a.rs", typed))).first(), Some(&2));
}

#[test]
fn a_part_that_uses_another_is_seen() {
    let clean = "use super::time::Mono;\nuse super::outbox::{Lane, OnUnknown};\nuse super::access::Principal;\nuse crate::relay::{rng::Rng, stats};\n";
    assert_eq!(parts::apart(&file("src/relay/link.rs", clean)), Complaints::new());
    assert_eq!(parts::apart(&file("src/relay/mod.rs", "use self::link;\nuse super::relay::feed;")), Complaints::new());
    assert_eq!(
        parts::apart(&file("src/relay/meet/connections/connecting.rs", "use super::super::feed::Feed;\n")),
        Complaints::new()
    );
    let nested = "use super::lanes::Lanes;\nuse super::super::time::Mono;\n";
    assert_eq!(parts::apart(&file("src/relay/outbox/window.rs", nested)), Complaints::new());

    let planted = "use super::time::Mono;\nuse super::feed::Feed;\nlet x = crate::relay::session::Session::new();\n";
    assert_eq!(lines(&parts::apart(&file("src/relay/link.rs", planted))), [3, 2]);
    let grouped = "use super::{outbox::{Lane, Admission}, time};\n";
    assert_eq!(lines(&parts::apart(&file("src/relay/link.rs", grouped))), [1]);
    assert_eq!(lines(&parts::apart(&file("src/relay/outbox/window.rs", "use super::super::feed;\n"))), [1]);
    assert_eq!(lines(&parts::apart(&file("src/relay/outbox/mod.rs", "use super::feed::Feed;\n"))), [1]);
}

#[test]
fn synonyms_are_seen_in_names_and_comments_but_not_in_literals() {
    let clean = "const A: &str = \"topic\"; // the channel\nlet consumption = 1;\nuse futures_util::Stream;\n";
    assert_eq!(rules::glossary(&file("src/a.rs", clean)), Complaints::new());
    let planted = "struct TopicTable;\nlet slow_consumers = 1;\n// a broker\nmod utils;\n";
    assert_eq!(lines(&rules::glossary(&file("src/a.rs", planted))), [1, 2, 3, 4]);
}

#[test]
fn commented_out_code_is_seen_and_prose_is_not() {
    let clean =
        "// The order matters;\n/// ```\n/// let x = f();\n/// ```\nlet a = 1; // why: f(x) is slow\n//! #[x]\n";
    assert_eq!(rules::commented_out(&file("src/a.rs", clean)), Complaints::new());
    let planted = "// let x = f();\n// if let Some(x) = y {\n// }\n// #[derive(Debug)]\n";
    assert_eq!(lines(&rules::commented_out(&file("src/a.rs", planted))), [1, 2, 3, 4]);
}

#[test]
fn silenced_lints_are_seen() {
    let clean = "#[expect(clippy::too_many_lines, reason = \"a table\")]\nfn f() {}\n";
    assert_eq!(rules::silenced(&file("src/a.rs", clean)), Complaints::new());
    let planted = "#[allow(dead_code)]\nfn f() {}\n#[expect(unused)]\nfn g() {}\n";
    assert_eq!(lines(&rules::silenced(&file("src/a.rs", planted))), [1, 3]);
}

#[test]
fn work_put_off_and_machine_paths_are_seen() {
    let later = format!("let x = 1; // {}: later\n", concat!("TO", "DO"));
    assert_eq!(lines(&rules::put_off(&file("src/a.rs", &later))), [1]);
    let path = format!("run it\nin {}me/x\n", concat!("/ho", "me/"));
    assert_eq!(lines(&rules::machine_paths(&file("README.md", &path))), [2]);
}

#[test]
fn a_missing_module_doc_is_seen() {
    assert_eq!(rules::module_doc(&file("src/a.rs", "//! Says what it is.\n")), Complaints::new());
    assert_eq!(rules::module_doc(&file("src/a.rs", "use std::fmt;\n")).len(), 1);
    assert_eq!(rules::module_doc(&file("src/a.rs", "//! x\n")).len(), 1);
}

#[test]
fn an_unargued_panic_is_seen() {
    let clean = "// A literal parses.\nlet a = \"1\".parse().unwrap();\n#[cfg(test)]\nmod tests { x.unwrap(); }\n";
    assert_eq!(rules::unargued_panic(&file("src/a.rs", clean)), Complaints::new());
    assert_eq!(rules::unargued_panic(&file("src/a/tests.rs", "x.unwrap();")), Complaints::new());
    assert_eq!(
        lines(&rules::unargued_panic(&file("src/a.rs", "let a = b.unwrap();\nlet c = d.expect(\"x\");\n"))),
        [1, 2]
    );
}
