//! One test for each rule of the schema, with both outcomes, against the same CEL text that the
//! API server evaluates.

use kube::core::cel::{ValidationErrors, validate_cel, validate_cel_update};
use serde_json::{Value, json};

use super::{CrdbCluster, RESERVED_FLAGS, is_reserved_flag};

fn base() -> Value {
    json!({
        "apiVersion": "crdb.dev/v1alpha1",
        "kind": "CrdbCluster",
        "metadata": {"name": "prod", "namespace": "db"},
        "spec": {
            "version": "v0.1.0",
            "profile": "Dev",
            "tls": {"mode": "Disabled"},
            "topology": {"regions": [{"name": "r1", "zones": ["r1-a", "r1-b"]}]},
            "pools": [
                {"name": "east-a", "region": "r1", "zone": "r1-a", "nodes": 2},
                {"name": "east-b", "region": "r1", "zone": "r1-b", "nodes": 1}
            ]
        }
    })
}

/// The base object with the value at a JSON pointer replaced or added.
fn with(mut object: Value, pointer: &str, value: Value) -> CrdbCluster {
    put(&mut object, pointer, value);
    serde_json::from_value(object).expect("the object decodes")
}

fn put(object: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    if object.pointer(parent).is_none() {
        put(object, parent, json!({}));
    }
    match object.pointer_mut(parent).expect("just made") {
        Value::Array(list) => match key.parse::<usize>() {
            Ok(index) => list[index] = value,
            Err(_) => list.push(value),
        },
        other => other[key] = value,
    }
}

fn refused(result: Result<(), ValidationErrors>, text: &str) {
    let errors = result.expect_err("the rule must refuse this").to_string();
    assert!(errors.contains(text), "refused for another reason: {errors}");
}

fn create(pointer: &str, value: Value) -> Result<(), ValidationErrors> {
    validate_cel(&with(base(), pointer, value))
}

/// Changes one place of a stored object.
fn update(stored: Value, pointer: &str, value: Value) -> Result<(), ValidationErrors> {
    let old: CrdbCluster = serde_json::from_value(stored.clone()).expect("decodes");
    validate_cel_update(&with(stored, pointer, value), &old)
}

fn initialized(status: &str) -> Value {
    let mut object = base();
    let condition = json!({
        "type": "Initialized", "status": status, "reason": "Bootstrapped", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"
    });
    put(&mut object, "/status", json!({"conditions": [condition]}));
    object
}

#[test]
fn the_base_object_is_valid() {
    let object: CrdbCluster = serde_json::from_value(base()).unwrap();
    validate_cel(&object).unwrap();
    validate_cel_update(&object, &object).unwrap();
}

#[test]
fn names_are_short_and_dns_labels() {
    create("/metadata/name", json!("a".repeat(24))).unwrap();
    refused(create("/metadata/name", json!("a".repeat(25))), "no longer than 24");
    refused(create("/metadata/name", json!("prod.east")), "start with a letter");
    refused(create("/metadata/name", json!("1prod")), "start with a letter");
    refused(create("/metadata/name", json!("prod-")), "start with a letter");
}

#[test]
fn only_profile_dev() {
    create("/spec/profile", json!("Dev")).unwrap();
    refused(create("/spec/profile", json!("Production")), "only profile Dev");
}

#[test]
fn only_tls_disabled() {
    create("/spec/tls/mode", json!("Disabled")).unwrap();
    for mode in ["OperatorCA", "CertManager", "UserProvided"] {
        refused(create("/spec/tls/mode", json!(mode)), "only tls.mode Disabled");
    }
}

#[test]
fn only_retain() {
    let both = json!({"whenDeleted": "Retain", "whenDecommissioned": "Retain"});
    create("/spec/deletionPolicy", both).unwrap();
    refused(create("/spec/deletionPolicy/whenDeleted", json!("Delete")), "only deletionPolicy");
    let pointer = "/spec/deletionPolicy/whenDecommissioned";
    refused(create(pointer, json!("Delete")), "only deletionPolicy");
}

#[test]
fn pools_name_regions_of_the_topology() {
    create("/spec/pools/0/region", json!("r1")).unwrap();
    refused(create("/spec/pools/0/region", json!("r2")), "every pool's region");
    let mut object = base();
    object["spec"].as_object_mut().unwrap().remove("topology");
    let unknown: CrdbCluster = serde_json::from_value(object).unwrap();
    refused(validate_cel(&unknown), "every pool's region");
}

#[test]
fn pools_name_zones_of_their_region() {
    create("/spec/pools/0/zone", json!("r1-b")).unwrap();
    refused(create("/spec/pools/0/zone", json!("r1-c")), "every pool's zone");
}

#[test]
fn a_pool_without_a_place_needs_no_topology() {
    let mut object = base();
    object["spec"].as_object_mut().unwrap().remove("topology");
    object["spec"]["pools"] = json!([{"name": "default", "nodes": 1}]);
    let object: CrdbCluster = serde_json::from_value(object).unwrap();
    validate_cel(&object).unwrap();
    assert_eq!(object.spec.pools[0].locality(), "");
}

#[test]
fn a_zone_needs_a_region() {
    create("/spec/pools/0", json!({"name": "x", "region": "r1", "zone": "r1-a", "nodes": 1}))
        .unwrap();
    let alone = json!({"name": "x", "zone": "r1-a", "nodes": 1});
    refused(create("/spec/pools/0", alone), "a pool with a zone needs a region");
}

#[test]
fn a_pool_can_be_added_but_not_removed() {
    let added = json!({"name": "east-c", "region": "r1", "zone": "r1-a", "nodes": 1});
    update(base(), "/spec/pools/-", added).unwrap();
    let renamed = json!({"name": "east-z", "region": "r1", "zone": "r1-b", "nodes": 1});
    refused(update(base(), "/spec/pools/1", renamed), "a pool cannot be removed");
}

#[test]
fn nodes_can_be_raised_but_not_lowered() {
    update(base(), "/spec/pools/0/nodes", json!(3)).unwrap();
    refused(update(base(), "/spec/pools/0/nodes", json!(1)), "cannot be lowered");
}

#[test]
fn the_place_of_a_pool_is_fixed() {
    update(base(), "/spec/pools/0/nodeSelector", json!({"disk": "ssd"})).unwrap();
    refused(update(base(), "/spec/pools/0/zone", json!("r1-b")), "immutable");
    let placeless = json!({"name": "east-a", "nodes": 2});
    refused(update(base(), "/spec/pools/0", placeless), "immutable");
}

#[test]
fn storage_is_fixed() {
    let stored = with(base(), "/spec/nodeDefaults/storage/data/size", json!("2Gi"));
    let stored = serde_json::to_value(stored).unwrap();
    update(stored.clone(), "/spec/nodeDefaults/hostAntiAffinity", json!("Required")).unwrap();
    let pointer = "/spec/nodeDefaults/storage/data/size";
    refused(update(stored.clone(), pointer, json!("3Gi")), "storage cannot be changed");
    let storage = json!({"data": {"size": "3Gi"}, "ephemeral": false});
    let pointer = "/spec/pools/0/storage";
    refused(update(stored.clone(), pointer, storage.clone()), "storage of a pool");
    let stored = serde_json::to_value(with(stored, pointer, storage.clone())).unwrap();
    update(stored, pointer, storage).unwrap();
}

#[test]
fn version_and_image_are_fixed_once_initialized() {
    update(initialized("False"), "/spec/version", json!("v0.2.0")).unwrap();
    update(base(), "/spec/version", json!("v0.2.0")).unwrap();
    refused(update(initialized("True"), "/spec/version", json!("v0.2.0")), "spec.version");
    update(initialized("False"), "/spec/image/repository", json!("other")).unwrap();
    refused(update(initialized("True"), "/spec/image/repository", json!("other")), "spec.image");
    update(initialized("True"), "/spec/deletionProtection", json!(false)).unwrap();
}

#[test]
fn an_open_load_balancer_is_refused() {
    let service = "/spec/loadBalancer/service";
    refused(create(service, json!({"type": "LoadBalancer"})), "needs loadBalancerSourceRanges");
    let ranges = json!(["10.0.0.0/8"]);
    let closed = json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ranges});
    create(service, closed).unwrap();
    let stray = json!({"type": "NodePort", "loadBalancerSourceRanges": ranges});
    refused(create(service, stray), "belongs to a Service of type LoadBalancer");
}

#[test]
fn node_ports_and_local_traffic_need_a_reachable_service() {
    let service = "/spec/loadBalancer/service";
    create(service, json!({"type": "NodePort", "nodePort": 30257})).unwrap();
    refused(create(service, json!({"nodePort": 30257})), "nodePort belongs");
    create(service, json!({"type": "NodePort", "externalTrafficPolicy": "Local"})).unwrap();
    refused(create(service, json!({"externalTrafficPolicy": "Local"})), "Local belongs");
}

#[test]
fn services_per_zone_come_later() {
    create("/spec/loadBalancer/service/perZone", json!(false)).unwrap();
    refused(create("/spec/loadBalancer/service/perZone", json!(true)), "perZone is not served");
}

#[test]
fn extra_flags_leave_ours_alone() {
    let set = "/spec/nodeDefaults/extraArgs/set";
    create(set, json!(["--cache=1GiB", "--max-offset=250ms"])).unwrap();
    let names = RESERVED_FLAGS.iter().copied().chain(["advertise-addr", "advertise-host"]);
    for name in names {
        for flag in [format!("--{name}"), format!("--{name}=x")] {
            refused(create(set, json!([flag])), "belong to the operator");
            assert!(is_reserved_flag(&flag), "{flag}");
        }
        refused(
            create("/spec/nodeDefaults/extraArgs/unset", json!([format!("--{name}")])),
            "belong",
        );
    }
    assert!(!is_reserved_flag("--cache=1GiB") && !is_reserved_flag("--max-offset"));
    refused(create(set, json!(["cache"])), "holds flags");
    let unset = "/spec/nodeDefaults/extraArgs/unset";
    create(unset, json!(["--cache"])).unwrap();
    refused(create(unset, json!(["--no-auto-init"])), "belong to the operator");
}

/// The API server matches this pattern; without it a typing error would only show in the status.
#[test]
fn quantities_are_checked_by_the_schema() {
    let definition = <CrdbCluster as kube::CustomResourceExt>::crd();
    let definition = serde_json::to_value(definition).unwrap();
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    let defaults = "nodeDefaults/properties";
    let size = format!("{spec}/{defaults}/storage/properties/data/properties/size");
    let memory = format!("{spec}/{defaults}/resources/properties/limits/additionalProperties");
    for pointer in [size, memory] {
        let schema = definition.pointer(&pointer).unwrap();
        assert_eq!(schema["x-kubernetes-int-or-string"], true, "{pointer}");
        assert_ne!(schema["nullable"], true, "{pointer}");
        let pattern = regex::Regex::new(schema["pattern"].as_str().unwrap()).unwrap();
        for good in ["10Gi", "1.5Gi", "500m", "0.5", ".5", "2", "1e3", "100M"] {
            assert!(pattern.is_match(good), "{good}");
        }
        for bad in ["", "abc", "10 Gi", "10GiB", "-1", "Gi", "10Gi\n"] {
            assert!(!pattern.is_match(bad), "{bad}");
        }
    }
}
