-- Makes a tenant's role and a schema that belongs to it, as far as they are not there.
do $$
begin
    if to_regrole('{role}') is null then
        begin
            create role {role} nologin noinherit;
        exception
            -- In another database of the cluster at the same time.
            when duplicate_object or unique_violation then null;
        end;
    end if;
    begin
        -- From 16 on it is the membership that inherits or not, before it is the member.
        if current_setting('server_version_num')::integer < 160000 then
            if not pg_has_role('{role}', 'member') then
                grant {role} to current_user;
            end if;
        -- Whoever makes a role may be set up to inherit from it; a superuser has every role.
        elsif not pg_has_role('{role}', 'set') or pg_has_role('{role}', 'usage')
            and not (select rolsuper from pg_roles where rolname = current_user) then
            execute 'grant {role} to current_user with inherit false, set true';
        end if;
    exception
        -- In another database at the same time; whoever lacks it cannot enter the role.
        when unique_violation or internal_error then null;
    end;
    if to_regnamespace('{schema}') is null then
        create schema {schema} authorization {role};
    end if;
end
$$;
