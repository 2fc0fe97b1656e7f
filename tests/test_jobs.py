"""What a user starts on a cluster is accepted: the cluster file by Ray's own schema, the recipes by ours."""

from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from ddps_ray import config

ROOT = Path(__file__).resolve().parents[1]


def test_rays_schema_accepts_the_cluster_and_nothing_listens_to_the_world() -> None:
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    validate_config(prepare_config(cluster))
    head, workers = (cluster["available_node_types"][name] for name in ("head", "spot-gpu"))
    assert workers["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert head["resources"]["GPU"] == 0
    for node in (head, workers):
        (interface,) = node["node_config"]["NetworkInterfaces"]
        assert interface["AssociatePublicIpAddress"] is False
        assert interface["Groups"], "without groups of its own, Ray makes one that lets the world in by SSH"
    started = " ".join(cluster["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in started
    assert "0.0.0.0" not in (ROOT / "cluster.yaml").read_text()


@pytest.mark.parametrize("file", sorted((ROOT / "jobs" / "recipes").glob("*.yaml")), ids=lambda file: file.name)
def test_every_recipe_loads(file: Path) -> None:
    config.load(file)


def test_imagenet_recipe_has_the_papers_settings() -> None:
    recipe = config.load(ROOT / "jobs" / "recipes" / "imagenet1k.yaml")
    assert (recipe.score.size, recipe.score.patch, recipe.score.timesteps) == (256, 224, (100, 700))
    assert (recipe.distill.clusters, recipe.distill.top_clusters, recipe.distill.mosaic_up_to) == (32, 10, 10)
    assert (recipe.evaluate.epochs, recipe.evaluate.protocols, len(recipe.evaluate.seeds)) == (300, ("rded",), 5)
