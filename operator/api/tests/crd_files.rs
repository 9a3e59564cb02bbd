//! The files under `crds/` are what the types say. `UPDATE_EXPECT=1` rewrites them.

use std::path::Path;

/// Client-side apply stores the whole object in an annotation, which may hold 256 KiB.
const CRD_BYTES_MAX: usize = 200_000;

fn crds_dir() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds")
}

#[test]
fn crd_files_match_the_types() {
    for (file, crd) in crdb_api::all_crds() {
        let yaml = serde_yaml::to_string(&crd).expect("a definition serializes");
        assert!(yaml.len() < CRD_BYTES_MAX, "{file} has {} bytes", yaml.len());
        expect_test::expect_file![crds_dir().join(file)].assert_eq(&yaml);
    }
}

/// `kubectl explain` shows these texts.
#[test]
fn every_field_of_the_spec_is_described_in_flowing_text() {
    let mut bare = Vec::new();
    for (_, crd) in crdb_api::all_crds() {
        let crd = serde_json::to_value(&crd).expect("a definition serializes");
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        for part in ["spec", "status"] {
            find_undescribed(&schema[part], part, &mut bare);
        }
    }
    assert!(bare.is_empty(), "without a description, or broken into lines: {bare:?}");
}

fn find_undescribed(schema: &serde_json::Value, path: &str, bare: &mut Vec<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let text = field["description"].as_str().unwrap_or_default();
        if text.is_empty() || text.replace("\n\n", "").contains('\n') {
            bare.push(path.clone());
        }
        find_undescribed(field, &path, bare);
        find_undescribed(&field["items"], &path, bare);
    }
}

#[test]
fn no_stray_crd_files() {
    let known: Vec<String> = crdb_api::all_crds().into_iter().map(|(file, _)| file).collect();
    for entry in std::fs::read_dir(crds_dir()).expect("crds/ exists") {
        let name = entry.expect("readable").file_name().into_string().expect("utf-8");
        assert!(known.contains(&name), "crds/{name} belongs to no type");
    }
}
