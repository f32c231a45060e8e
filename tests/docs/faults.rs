//! `docs/faults.md`, and what the README says was tried: every row has its tests, every test that it names is there, and so is
//! every metric.

use crate::{project, text};

/// Rows that the page has to have: what goes wrong on the way, and in what upstream says.
const ROWS: [(char, usize); 2] = [('U', 20), ('P', 36)];

/// Cells of the page's rows, without the heads.
fn rows() -> Vec<Vec<String>> {
    let page = text("docs/faults.md");
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    let rows: Vec<Vec<String>> = page.lines().filter(|line| line.starts_with('|')).map(cells).collect();
    rows.into_iter().filter(|row| !row[0].is_empty() && row[0] != "#" && !row[0].starts_with('-')).collect()
}

/// What stands in back quotes.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// Whether a file has this test.
fn has_test(file: &str, name: &str) -> bool {
    let source = text(file);
    let mut marked = false;
    source.lines().map(str::trim).any(|line| {
        marked |= line.starts_with("#[test]") || line.starts_with("#[tokio::test]");
        let declared = ["fn ", "async fn "].iter().any(|start| {
            let rest = line.strip_prefix(start).and_then(|rest| rest.strip_prefix(name));
            rest.is_some_and(|rest| rest.starts_with('('))
        });
        let ends = line.contains("fn ") && !line.starts_with("//");
        let found = declared && marked;
        marked &= !ends;
        found
    })
}

/// How many tests a cell names, each after its file; all of them are there.
fn tests_named(tests: &str, what: &str) -> usize {
    let (mut file, mut held) = (None, 0);
    for word in quoted(tests) {
        if word.ends_with(".rs") {
            assert!(project().join(word).exists(), "{what}: there is no {word}");
            file = Some(word);
            continue;
        }
        let file = file.unwrap_or_else(|| panic!("{what}: {word} is in no file"));
        assert!(has_test(file, word), "{what}: {file} has no test {word}");
        held += 1;
    }
    held
}

#[test]
fn what_the_readme_says_was_tried_is_tried() {
    let page = text("README.md");
    let table = page.split("| what was done to it |").nth(1).expect("the table of what was tried");
    let rows: Vec<&str> = table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() >= 10, "{rows:?}");
    for row in rows {
        let tests = row.trim_matches('|').rsplit('|').next().unwrap_or_default();
        assert!(tests_named(tests, row) > 0, "held by nothing: {row}");
    }
}

#[test]
fn every_fault_has_its_row_and_every_row_its_tests() {
    let rows = rows();
    let wanted = ROWS.iter().flat_map(|(kind, count)| (1..=*count).map(move |n| format!("{kind}{n}")));
    let names: Vec<String> = rows.iter().map(|row| row[0].clone()).collect();
    assert_eq!(names, wanted.collect::<Vec<_>>());
    for row in &rows {
        let [number, .., tests] = row.as_slice() else { panic!("{row:?}") };
        assert!(row.len() == 5 && row.iter().all(|cell| !cell.is_empty()), "{number}: a cell is missing");
        let held = tests_named(tests, number);
        assert!(held > 0 || tests.starts_with("no test:"), "{number}: held by nothing, without a word why");
    }
}

#[test]
fn every_metric_of_it_is_there() {
    let (page, table) = (text("docs/faults.md"), text("src/metrics/table.rs"));
    for name in quoted(&page).filter(|word| word.starts_with("tidegate_")) {
        assert!(table.contains(&format!("\"{name}\"")), "{name} is no metric");
    }
}

#[test]
fn a_test_that_is_gone_is_missed() {
    assert!(has_test("tests/docs/faults.rs", "a_test_that_is_gone_is_missed"));
    assert!(!has_test("tests/docs/faults.rs", "quoted"), "a function that is no test");
    assert!(!has_test("tests/docs/faults.rs", "a_test_that_is"), "half a name");
}
