//! What editors make of a recipe: the schema, checked by taplo, which the TOML extensions of editors use.

use std::process::Command;

use crate::wheel::tool;
use crate::{place, project};

#[test]
fn taplo_accepts_the_recipes_of_the_project_and_marks_a_misspelt_key() {
    let Some(taplo) = tool("SPO_TAPLO", "taplo") else { return };
    let place = place();
    place.write("schema.json", place.run(&["schema"]).success().stdout);
    let schema = format!("file://{}", place.path("schema.json").display());
    let check = |file: &std::path::Path| {
        let mut command = Command::new(&taplo);
        command.args(["check", "--no-auto-config", "--schema", &schema]).arg(file);
        let output = command.current_dir(place.path("")).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for name in ["quickstart.toml", "smollm2-lora.toml", "enumerable.toml"] {
        let (valid, said) = check(&project(&format!("recipes/{name}")));
        assert!(valid, "{name}: {said}");
    }
    let quickstart = std::fs::read_to_string(project("recipes/quickstart.toml")).unwrap();
    let extending = "extends = \"base.toml\"\n[[stage]]\nname = \"spo\"\noptimizer = { warmup = 0.2 }\n";
    for (name, text, valid, mark) in [
        ("misspelt.toml", quickstart.replace("batch_size", "bach_size"), false, "bach_size"),
        ("extending.toml", extending.to_owned(), true, ""),
        ("incomplete.toml", extending.replace("extends = \"base.toml\"\n", ""), false, "required"),
    ] {
        place.write(name, text);
        let (found, said) = check(&place.path(name));
        assert!(found == valid && said.contains(mark), "{name}: {said}");
    }
}
