{{/* What must be given, and what does not go together: said before anything is rendered. */}}

{{- define "provledger.checks" -}}
{{- $wrong := list -}}
{{- if not .Values.image.repository }}{{ $wrong = append $wrong "image.repository: where your image is (deploy/docker/Dockerfile builds one)" }}{{ end -}}
{{- range $name := splitList " " (include "provledger.components" .) -}}
{{- $values := index $.Values $name -}}
{{- if not $values.tls.secret }}{{ $wrong = append $wrong (printf "%s.tls.secret: a Secret with tls.crt, tls.key and ca.crt; no service listens without TLS" $name) }}{{ end -}}
{{- if and (has $name (list "keys" "ledger" "anchor")) (not $values.database.secret) }}{{ $wrong = append $wrong (printf "%s.database.secret: a Secret with the URL of its PostgreSQL database" $name) }}{{ end -}}
{{- $principal := $values.principal | default "" -}}
{{- if or (eq (trim $principal) "*") (regexMatch "[,;]" $principal) }}{{ $wrong = append $wrong (printf "%s.principal: %q is no name in a certificate" $name $principal) }}{{ end -}}
{{- $pdb := $values.pdb | default dict -}}
{{- if and (hasKey $pdb "maxUnavailable") (ne (toString (dig "minAvailable" 1 $pdb)) "1") }}{{ $wrong = append $wrong (printf "%s.pdb: minAvailable or maxUnavailable, not both" $name) }}{{ end -}}
{{- range $key, $value := $values.settings -}}
{{- if has $key (list "host" "port" "tls_cert" "tls_key" "tls_ca" "rpc_tls_cert" "rpc_tls_key" "rpc_tls_ca" "allowed_callers" "database_url" "data_dir" "key_dir" "keys_endpoint" "witness_endpoint" "anchor_endpoint" "ready_file" "tile_store" "policy" "sinks" "wait_for_sinks" "logs" "name") -}}
{{- $wrong = append $wrong (printf "%s.settings.%s: the chart sets this itself" $name $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.gateway.enabled (not .Values.gateway.tls.rpcSecret) }}{{ $wrong = append $wrong "gateway.tls.rpcSecret: a Secret with the certificate it shows to the keys service" }}{{ end -}}
{{- if and .Values.gateway.enabled (eq .Values.gateway.tilesFrom "store") (not .Values.anchor.tileStore) }}{{ $wrong = append $wrong "anchor.tileStore: gateway.tilesFrom is store" }}{{ end -}}
{{- if and .Values.gateway.enabled (eq .Values.gateway.tilesFrom "volume") .Values.anchor.tileStore }}{{ $wrong = append $wrong "gateway.tilesFrom: the tiles are in anchor.tileStore, not on a volume" }}{{ end -}}
{{- if and .Values.anchor.waitForSinks (not .Values.anchor.sinks) (not .Values.anchor.policy) }}{{ $wrong = append $wrong "anchor.waitForSinks: there are no sinks to wait for" }}{{ end -}}
{{- if gt (int .Values.anchor.replicas) 1 }}{{ $wrong = append $wrong "anchor.replicas: a log has one writer" }}{{ end -}}
{{- if .Values.notary.enabled -}}
{{- if or (not .Values.notary.name) (not .Values.notary.logs) }}{{ $wrong = append $wrong "notary.name and notary.logs: who it is, and whose logs it cosigns" }}{{ end -}}
{{- if gt (int .Values.notary.replicas) 1 }}{{ $wrong = append $wrong "notary.replicas: one process uses the volume with its keys" }}{{ end -}}
{{- end -}}
{{- if not .Values.callers.operators }}{{ $wrong = append $wrong "callers.operators: names in the certificates of those who may call everything, such as the one of firstKeys.tls.secret" }}{{ end -}}
{{- /* Names are put into one text, as name,name;... */}}
{{- range .Values.callers.operators -}}
{{- /* No certificate is taken whose name is one of these, and none is a pattern. */}}
{{- if or (has (trim .) (list "" "anonymous")) (regexMatch "[*,;]" .) }}{{ $wrong = append $wrong (printf "callers.operators: %q is no name; whoever is meant may revoke every key, so each is named" .) }}{{ end -}}
{{- end -}}
{{- range .Values.callers.clients -}}
{{- if regexMatch "[,;]" . }}{{ $wrong = append $wrong (printf "callers.clients: %q is no name: give each for itself" .) }}{{ end -}}
{{- end -}}
{{- $first := .Values.firstKeys -}}
{{- if $first.enabled -}}
{{- range $name := list "witness" "checkpoint" "head" "recovery" -}}
{{- if not (index $first $name) }}{{ $wrong = append $wrong (printf "firstKeys.%s: URI of a key that is there (or firstKeys.enabled=false, to run `keys init` yourself)" $name) }}{{ end -}}
{{- end -}}
{{- if not $first.tls.secret }}{{ $wrong = append $wrong "firstKeys.tls.secret: the certificate its Job shows" }}{{ end -}}
{{- end -}}
{{- range $name := list "witness" "checkpoint" "head" "receipt" -}}
{{- if and (hasPrefix "local:" (index $first $name)) (not $.Values.keyFiles.secret) }}{{ $wrong = append $wrong (printf "keyFiles.secret: firstKeys.%s is a file of it" $name) }}{{ end -}}
{{- end -}}
{{- if and $first.enabled (hasPrefix "local:" $first.recovery) (not $first.recoverySecret) }}{{ $wrong = append $wrong "firstKeys.recoverySecret: firstKeys.recovery is a file of it" }}{{ end -}}
{{- /* The policies learn from these URIs what the services that sign may reach; keys in volumes need nothing. */}}
{{- if and .Values.networkPolicy.enabled (not $first.enabled) (not .Values.networkPolicy.egress.kms) (not .Values.keyFiles.secret) (not (or $first.witness $first.checkpoint $first.head)) (not (and .Values.witness.extraVolumes .Values.anchor.extraVolumes)) -}}
{{- $wrong = append $wrong "networkPolicy.egress.kms: where the key service of witness and anchor is, which no URI in firstKeys says; or leave these URIs there, with firstKeys.enabled=false" -}}
{{- end -}}
{{- if .Values.fips.enabled -}}
{{- $suites := dict "ledger" (.Values.ledger.settings.default_suite | default "fips") "anchor" (.Values.anchor.settings.suite | default "fips") -}}
{{- range $name, $suite := $suites -}}
{{- if ne $suite "fips" }}{{ $wrong = append $wrong (printf "fips.enabled: suite %s of the %s service is not allowed in FIPS mode" $suite $name) }}{{ end -}}
{{- end -}}
{{- if .Values.notary.enabled }}{{ $wrong = append $wrong "fips.enabled: the notary has no FIPS mode; give it a release of its own" }}{{ end -}}
{{- range $item := concat .Values.extraEnv .Values.keys.extraEnv .Values.witness.extraEnv .Values.ledger.extraEnv .Values.anchor.extraEnv .Values.gateway.extraEnv -}}
{{- if has $item.name (list "PROVLEDGER_FIPS" "PROVLEDGER_FIPS_DIR" "PROVLEDGER_FIPS_MODULE" "OPENSSL_CONF" "OPENSSL_MODULES" "AWS_USE_FIPS_ENDPOINT") }}{{ $wrong = append $wrong (printf "fips.enabled: %s is the chart's to set" $item.name) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- $rules := list -}}
{{- range (.Files.Get "alerts.yaml" | fromYaml).groups }}{{ range .rules }}{{ $rules = append $rules .alert }}{{ end }}{{ end -}}
{{- range .Values.alerts.leaveOut -}}
{{- if not (has . $rules) }}{{ $wrong = append $wrong (printf "alerts.leaveOut: alerts.yaml has no rule %s" .) }}{{ end -}}
{{- end -}}
{{- if $wrong -}}
{{- fail (printf "\nThese values are missing or wrong (docs/helm.md):\n  - %s\n" (join "\n  - " $wrong)) -}}
{{- end -}}
{{- end -}}
