//! Models whose weights are in `pytorch_model.bin`: trained with `allow_pickle`, converted, refused.

use std::path::Path;

use test_support::Place;

use crate::project;
use crate::recipes::with_model_beside;

/// A place with a Llama of two shards in `pickled`, and a tokenizer in `model`.
fn place() -> Place {
    let place = with_model_beside();
    std::fs::create_dir(place.path("pickled")).unwrap();
    let copy =
        |from: &Path| std::fs::copy(from, place.path("pickled").join(from.file_name().unwrap())).unwrap();
    copy(&project("tests/goldens/architectures/llama/config.json"));
    for entry in project("tests/goldens/pickled/llama").read_dir().unwrap() {
        copy(&entry.unwrap().path());
    }
    place.write("train.jsonl", "{\"prompt\": \"1+2=\", \"chosen\": \"3\", \"rejected\": \"4\"}\n".repeat(4));
    place
}

fn recipe(model: &str) -> String {
    format!(
        "[run]\noutput = \"out\"\noverwrite = true\n[model]\n{model}\ntokenizer = \"model\"\n[data]\ntrain = \"train.jsonl\"\nmax_length = 32\n\
         [[stage]]\nname = \"s\"\nobjective = \"dpo\"\nsteps = 2\nbatch_size = 2\noptimizer = {{ lr = 1e-3 }}\n"
    )
}

#[test]
fn pickled_weights_are_read_where_they_are_allowed_and_converted_to_the_same_model() {
    let place = place();
    place.write("recipe.toml", recipe("path = \"pickled\""));
    for arguments in [["check", "recipe.toml"].as_slice(), &["recipe.toml", "--quiet"]] {
        let refused = place.run(arguments);
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        for part in ["recipe.toml:5", "allow_pickle", "spo-run convert"] {
            assert!(refused.stderr.contains(part), "{} does not say {part}", refused.stderr);
        }
    }
    let trained = |model: &str| {
        place.write("recipe.toml", recipe(model));
        place.run(&["check", "recipe.toml"]).success();
        place.run(&["recipe.toml", "--quiet"]).success();
        ["metrics.jsonl", "s/model.safetensors"]
            .map(|file| std::fs::read(place.path("out").join(file)).unwrap())
    };
    let read = trained("path = \"pickled\"\nallow_pickle = true");
    place.run(&["convert", "pickled", "converted"]).success();
    assert!(trained("path = \"converted\"") == read);
    place.run(&["convert", "pickled", "half", "--dtype", "f16"]).success();
    assert!(place.read("half/config.json").contains("float16"));

    let twice = place.run(&["convert", "pickled", "converted"]);
    assert_eq!(twice.code, 2);
    assert!(twice.stderr.contains("converted is not empty"), "{}", twice.stderr);
    let shard = "pickled/pytorch_model-00002-of-00002.bin";
    let whole = std::fs::read(place.path(shard)).unwrap();
    std::fs::write(place.path(shard), &whole[..whole.len() / 2]).unwrap();
    let damaged = place.run(&["convert", "pickled", "again"]);
    assert_eq!(damaged.code, 2, "{}", damaged.stderr);
    assert!(damaged.stderr.contains("pytorch_model-00002-of-00002.bin"), "{}", damaged.stderr);
}

#[test]
fn a_pickled_adapter_is_read_where_it_is_allowed_and_converted_to_the_same() {
    let place = place();
    place.run(&["convert", "pickled", "base"]).success();
    std::fs::copy(place.path("model/tokenizer.json"), place.path("base/tokenizer.json")).unwrap();
    std::fs::create_dir(place.path("adapter")).unwrap();
    for file in ["adapter_config.json", "adapter_model.bin"] {
        let from = project("tests/goldens/pickled/adapter").join(file);
        std::fs::copy(from, place.path("adapter").join(file)).unwrap();
    }
    let adapted = |folder: &str| format!("path = \"base\"\nadapter = {{ path = \"{folder}\" }}");
    place.write("recipe.toml", recipe(&adapted("adapter")));
    let refused = place.run(&["check", "recipe.toml"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    for part in ["recipe.toml:6", "adapter_model.bin", "allow_pickle", "spo-run convert"] {
        assert!(refused.stderr.contains(part), "{} does not say {part}", refused.stderr);
    }
    let trained = |model: &str| {
        place.write("recipe.toml", recipe(model));
        place.run(&["check", "recipe.toml"]).success();
        place.run(&["recipe.toml", "--quiet"]).success();
        ["metrics.jsonl", "s/adapter_model.safetensors"]
            .map(|file| std::fs::read(place.path("out").join(file)).unwrap())
    };
    let read = trained(&format!("allow_pickle = true\n{}", adapted("adapter")));
    place.run(&["convert", "adapter", "converted"]).success();
    assert!(trained(&adapted("converted")) == read);
    let unread = place.run(&["generate", "base", "1+2=", "--adapter", "adapter"]);
    assert_eq!(unread.code, 2, "{}", unread.stderr);
    assert!(unread.stderr.contains("spo-run convert"), "{}", unread.stderr);
}

#[test]
fn a_gradient_that_is_not_kept_is_refused_beside_an_adapter() {
    let place = place();
    let adapter = "path = \"model\"\nadapter = { rank = 2, alpha = 4, targets = \"all-linear\" }";
    let in_backward = "{ lr = 1e-3, max_grad_norm = 0, in_backward = true }";
    place.write("recipe.toml", recipe(adapter).replace("{ lr = 1e-3 }", in_backward));
    let refused = place.run(&["check", "recipe.toml"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    for part in ["recipe.toml:16", "in_backward", "the gradient of an adapter is small"] {
        assert!(refused.stderr.contains(part), "{} does not say {part}", refused.stderr);
    }
}
