#!/usr/bin/env bash
# The real run: two simulated years -> store -> training -> 60 ten-day forecasts of the last three months -> scores, pictures.
#   tests/benchmarks/speedy_5p6deg.sh FOLDER_WITH_speedy_*.nc OUT_FOLDER
# The model it leaves in OUT_FOLDER/run/model is the one shipped in afno_forecast/data/sample/model.
set -euo pipefail
data=$1 out=$2
config="$(dirname "$0")/../../configs/weather/speedy_5p6deg.yaml"
mkdir -p "$out"
afno-forecast data build "$data"/speedy_2000-03_2001-02.nc "$data"/speedy_2001-03_2002-02.nc "$out/speedy.zarr" --statistics 2000-03-01/2001-10-31T18
afno-forecast train "$config" data.store="$out/speedy.zarr" output="$out/run"
# 60 forecasts: every 32 h would not meet all hours; 30 h does, from 2001-12-01 to 2002-02-12T18, so that ten days of truth remain
afno-forecast rollout "$out/run/model" --data "$out/speedy.zarr" --init 2001-12-01/2002-02-12T18/30h --lead-time 10d --out "$out/forecast.zarr"
afno-forecast evaluate "$out/forecast.zarr" --truth "$out/speedy.zarr" --out "$out/scores.nc"
afno-forecast plot scores "$out/scores.nc" --out "$out/scores.png"
afno-forecast plot compare "$out/forecast.zarr" --truth "$out/speedy.zarr" --variable z500 --init 2001-12-18T12 --lead 5d --out "$out/compare_z500_120h.png"
afno-forecast plot report "$out/forecast.zarr" --truth "$out/speedy.zarr" --scores "$out/scores.nc" --model "$out/run/model" --out "$out/report.html"
